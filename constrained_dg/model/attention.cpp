// Attention with learned biases, for training on a CPU: from the product with the query, key and value weights to the
// heads' answers, and back.
//
// Norms and rotation, softmax(q k^T + bias) v, one head of one row of the batch at a time: scores stay in the cache, are
// never stored for the backward pass, and the gradient of a bias that all rows share is summed where it is computed.
// Compiled at run time by native.py, with HEAD, the size of a head (a multiple of 8). Tensors are contiguous:
// projected (B, N, P) with H query heads, G key heads and, unless values are made of the keys, G value heads; past
// keys and values (B, S, G, HEAD); bias (1 or B, H, N, S + N); cosine and sine (N, HEAD). `projected`, `past`, answers
// and their gradients are all fp32 or all bf16, everything else is fp32, and so is the arithmetic.

#include "vectors.h"

namespace {

constexpr float kMasked = -1e30f;  // at keys beyond the last, which fill up a vector

struct Shape {
    int64_t batch, queries, past, heads, groups, bias_rows, tied, half, threads;
    int64_t keys() const { return past + queries; }
    int64_t width() const { return (keys() + 15) / 16 * 16; }  // of a row of scores
    int64_t shared() const { return heads / groups; }
    int64_t channels() const { return (heads + (tied ? 1 : 2) * groups) * HEAD; }
    int64_t of_key(int64_t g) const { return (heads + g) * HEAD; }
    int64_t of_value(int64_t g) const { return (heads + (tied ? 0 : groups) + g) * HEAD; }
    int64_t at(int64_t b, int64_t n) const { return (b * queries + n) * channels(); }
    int64_t block() const {  // queries at a time: their scores take at most 128 KB
        const int64_t most = (128 << 10) / (width() * 4) / 9 * 9;
        return most < 9 ? 9 : most < queries ? most : queries;
    }
};

struct Tensors {
    const void *projected, *past_keys, *past_values;
    const float *bias, *query_weight, *key_weight, *cosine, *sine;
    float eps;
};

struct Buffer {
    float* data;
    explicit Buffer(int64_t count) : data((float*)std::calloc(count + 16, sizeof(float))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(data); }
    operator float*() { return data; }
};

INLINE float scale_of(const Row& x, float eps) { return 1 / std::sqrt(dot(x, x) / HEAD + eps); }

// The gradient at x / rms(x) -> at x.
INLINE Row back_normalise(const Row& grad, const Row& normed, float scale) {
    return (grad + normed * (-dot(grad, normed) / HEAD)) * scale;
}

// Turned by the angles of position n.
INLINE Row turn(const Tensors& t, int64_t n, const Row& from) {
    const Row c = row(t.cosine + n * HEAD), s = row(t.sine + n * HEAD);
    Row to;
    for (int p = 0; p < Row::R; ++p) to.x[p] = from.x[p] * c.x[p] - from.x[p + Row::R] * s.x[p];
    for (int p = Row::R; p < Row::P; ++p) to.x[p] = from.x[p] * c.x[p] + from.x[p - Row::R] * s.x[p];
    return to;
}

// The gradient after `turn` -> before it.
INLINE Row back_turn(const Tensors& t, int64_t n, const Row& grad) {
    const Row c = row(t.cosine + n * HEAD), s = row(t.sine + n * HEAD);
    Row to;
    for (int p = 0; p < Row::R; ++p) to.x[p] = grad.x[p] * c.x[p] + grad.x[p + Row::R] * s.x[p + Row::R];
    for (int p = Row::R; p < Row::P; ++p) to.x[p] = grad.x[p] * c.x[p] - grad.x[p - Row::R] * s.x[p - Row::R];
    return to;
}

void across(const float* rows, int64_t count, int64_t width, float* to) {
    for (int64_t j = 0; j < count; ++j)
        for (int d = 0; d < HEAD; ++d) to[d * width + j] = rows[j * HEAD + d];
}

// Keys and values (S + N, HEAD) of one head. `normed` keeps the new keys before `turn`, `scales` 1 / rms of both.
void load_keys(const Shape& s, const Tensors& t, int64_t b, int64_t g, float* keys, float* values, float* normed,
               float* scales) {
    const Row weight = row(t.key_weight);
    for (int64_t j = 0; j < s.past; ++j) {
        const int64_t at = ((b * s.past + j) * s.groups + g) * HEAD;
        put(keys + j * HEAD, load(t.past_keys, at, s.half));
        put(values + j * HEAD, load(t.past_values, at, s.half));
    }
    for (int64_t n = 0; n < s.queries; ++n) {
        const Row key = load(t.projected, s.at(b, n) + s.of_key(g), s.half);
        const Row value = load(t.projected, s.at(b, n) + s.of_value(g), s.half);
        scales[n * 2] = scale_of(key, t.eps);
        scales[n * 2 + 1] = scale_of(value, t.eps);
        put(normed + n * HEAD, key * scales[n * 2]);
        put(keys + (s.past + n) * HEAD, turn(t, n, key * scales[n * 2] * weight));
        put(values + (s.past + n) * HEAD, value * scales[n * 2 + 1]);
    }
}

// The bias of each head with rows of full vectors; kept where all rows of the batch share it.
struct Biases {
    const Shape& s;
    int64_t first;
    Buffer kept;
    Biases(const Shape& s, int64_t low, int64_t high)
        : s(s), first(low * s.shared()), kept((s.bias_rows > 1 ? 1 : (high - low) * s.shared()) * s.queries * s.width()) {}

    const float* of(const float* bias, int64_t b, int64_t h) {
        const int64_t width = s.width(), keys = s.keys();
        float* to = kept + (s.bias_rows > 1 ? 0 : (h - first) * s.queries * width);
        if (b > 0 && s.bias_rows == 1) return to;
        const float* from = bias + ((s.bias_rows > 1 ? b : 0) * s.heads + h) * s.queries * keys;
        for (int64_t i = 0; i < s.queries; ++i) {
            std::memcpy(to + i * width, from + i * keys, keys * sizeof(float));
            for (int64_t j = keys; j < width; ++j) to[i * width + j] = kMasked;
        }
        return to;
    }
};

// Key heads [low, high), all heads of a row before the next row.
void forward(const Shape& s, const Tensors& t, void* out, float* norm, void* new_keys, void* new_values, int64_t low,
             int64_t high) {
    const int64_t width = s.width(), block = s.block(), keys = s.keys();
    Buffer key(keys * HEAD), value(keys * HEAD), keys_across(HEAD * width), normed(s.queries * HEAD);
    Buffer scales(s.queries * 2), query(block * HEAD), scores(block * width), result(block * HEAD);
    Biases biases(s, low, high);
    const Row weight = row(t.query_weight);
    for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t h = low * s.shared(); h < high * s.shared(); ++h) {
            const int64_t g = h / s.shared(), shared = h % s.shared();
            const float* added = biases.of(t.bias, b, h);
            if (shared == 0) {
                load_keys(s, t, b, g, key, value, normed, scales);
                across(key, keys, width, keys_across);
            }
            for (int64_t n = 0; n < s.queries && shared == 0; ++n) {
                const int64_t at = ((b * s.queries + n) * s.groups + g) * HEAD;
                store(new_keys, at, row(key + (s.past + n) * HEAD), s.half);
                store(new_values, at, row(value + (s.past + n) * HEAD), s.half);
            }
            for (int64_t first = 0; first < s.queries; first += block) {
                const int64_t rows = s.queries - first < block ? s.queries - first : block;
                for (int64_t i = 0; i < rows; ++i) {
                    const Row from = load(t.projected, s.at(b, first + i) + h * HEAD, s.half);
                    put(query + i * HEAD, turn(t, first + i, from * scale_of(from, t.eps) * weight));
                }
                std::memcpy(scores, added + first * width, rows * width * sizeof(float));
                product<v16>(query, HEAD, 1, keys_across, width, scores, width, rows, width, HEAD, true);
                float* softmax = norm + ((b * s.heads + h) * s.queries + first) * 2;
                for (int64_t i = 0; i < rows; ++i) {
                    float* row = scores + i * width;
                    const float most = maximum(row, width);
                    v16 sum{};
                    for (int64_t j = 0; j < width; j += 16) {
                        const v16 e = exponential(get(row + j) - most);
                        put(row + j, e);
                        sum += e;
                    }
                    softmax[i * 2] = most;
                    softmax[i * 2 + 1] = 1 / total(sum);
                }
                product<v8>(scores, width, 1, value, HEAD, result, HEAD, rows, HEAD, keys, false);
                for (int64_t i = 0; i < rows; ++i) {
                    const int64_t at = ((b * s.queries + first + i) * s.heads + h) * HEAD;
                    store(out, at, row(result + i * HEAD) * softmax[i * 2 + 1], s.half);
                }
            }
        }
}

struct Gradients {
    const void *out, *keys, *values;  // of the answers, and of the new keys and values or null
    void *projected, *past_keys, *past_values;
    float *bias, *weights;  // zero at first; weights (G, 2, HEAD): of the norms of queries and keys
};

void backward(const Shape& s, const Tensors& t, const void* out, const float* norm, const Gradients& to, int64_t low,
              int64_t high) {
    const int64_t width = s.width(), block = s.block(), keys = s.keys(), all = keys * HEAD;
    Buffer key(all), value(all), keys_across(HEAD * width), values_across(HEAD * width), normed(s.queries * HEAD);
    Buffer scales(s.queries * 2), raw(block * HEAD), query(block * HEAD), given(block * HEAD);
    Buffer result(block * HEAD), query_scales(block), weights(block * width), slopes(block * width);
    Buffer sums(2 * all);  // gradients of keys and values
    float *key_sum = sums, *value_sum = key_sum + all;
    Biases biases(s, low, high);
    const Row of_queries = row(t.query_weight), of_keys = row(t.key_weight);
    for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t h = low * s.shared(); h < high * s.shared(); ++h) {
            const int64_t g = h / s.shared(), shared = h % s.shared();
            float *query_weight = to.weights + g * 2 * HEAD, *key_weight = query_weight + HEAD;
            const float* added = biases.of(t.bias, b, h);
            if (shared == 0) {
                load_keys(s, t, b, g, key, value, normed, scales);
                across(key, keys, width, keys_across);
                across(value, keys, width, values_across);
            }
            for (int64_t first = 0; first < s.queries; first += block) {
                const int64_t rows = s.queries - first < block ? s.queries - first : block;
                const bool more = first > 0 || shared > 0;
                for (int64_t i = 0; i < rows; ++i) {
                    const int64_t at = ((b * s.queries + first + i) * s.heads + h) * HEAD;
                    const Row from = load(t.projected, s.at(b, first + i) + h * HEAD, s.half);
                    query_scales[i] = scale_of(from, t.eps);
                    put(raw + i * HEAD, from * query_scales[i]);
                    put(query + i * HEAD, turn(t, first + i, from * query_scales[i] * of_queries));
                    put(given + i * HEAD, load(to.out, at, s.half));
                }
                std::memcpy(weights, added + first * width, rows * width * sizeof(float));
                product<v16>(query, HEAD, 1, keys_across, width, weights, width, rows, width, HEAD, true);
                product<v16>(given, HEAD, 1, values_across, width, slopes, width, rows, width, HEAD, false);
                const float* softmax = norm + ((b * s.heads + h) * s.queries + first) * 2;
                for (int64_t i = 0; i < rows; ++i) {
                    const int64_t at = ((b * s.queries + first + i) * s.heads + h) * HEAD;
                    const float mean = dot(load(out, at, s.half), row(given + i * HEAD));
                    const float most = softmax[i * 2], scale = softmax[i * 2 + 1];
                    float *weight = weights + i * width, *slope = slopes + i * width;
                    for (int64_t j = 0; j < width; j += 16) {
                        const v16 p = exponential(get(weight + j) - most) * scale;
                        put(weight + j, p);
                        put(slope + j, p * (get(slope + j) - mean));
                    }
                    float* sum = to.bias + (((s.bias_rows > 1 ? b : 0) * s.heads + h) * s.queries + first + i) * keys;
                    for (int64_t j = 0; j < keys; ++j) sum[j] += slope[j];
                }
                product<v8>(weights, 1, width, given, HEAD, value_sum, HEAD, keys, HEAD, rows, more);
                product<v8>(slopes, 1, width, query, HEAD, key_sum, HEAD, keys, HEAD, rows, more);
                product<v8>(slopes, width, 1, key, HEAD, result, HEAD, rows, HEAD, keys, false);
                Row to_queries = row(query_weight);
                for (int64_t i = 0; i < rows; ++i) {
                    const Row slope = back_turn(t, first + i, row(result + i * HEAD)), from = row(raw + i * HEAD);
                    to_queries = to_queries + slope * from;
                    const Row grad = back_normalise(slope * of_queries, from, query_scales[i]);
                    store(to.projected, s.at(b, first + i) + h * HEAD, grad, s.half);
                }
                put(query_weight, to_queries);
            }
            if (shared < s.shared() - 1) continue;
            Row to_keys = row(key_weight);
            for (int64_t j = 0; j < s.past; ++j) {
                const int64_t at = ((b * s.past + j) * s.groups + g) * HEAD;
                store(to.past_keys, at, row(key_sum + j * HEAD), s.half);
                store(to.past_values, at, row(value_sum + j * HEAD), s.half);
            }
            for (int64_t n = 0; n < s.queries; ++n) {
                const int64_t at = ((b * s.queries + n) * s.groups + g) * HEAD;
                const Row normed_key = row(normed + n * HEAD), normed_value = row(value + (s.past + n) * HEAD);
                Row key_slope = row(key_sum + (s.past + n) * HEAD), value_slope = row(value_sum + (s.past + n) * HEAD);
                if (to.keys) key_slope = key_slope + load(to.keys, at, s.half);
                if (to.values) value_slope = value_slope + load(to.values, at, s.half);
                key_slope = back_turn(t, n, key_slope);
                to_keys = to_keys + key_slope * normed_key;
                key_slope = back_normalise(key_slope * of_keys, normed_key, scales[n * 2]);
                value_slope = back_normalise(value_slope, normed_value, scales[n * 2 + 1]);
                if (s.tied)
                    key_slope = key_slope + value_slope;
                else
                    store(to.projected, s.at(b, n) + s.of_value(g), value_slope, s.half);
                store(to.projected, s.at(b, n) + s.of_key(g), key_slope, s.half);
            }
            put(key_weight, to_keys);
        }
}

}  // namespace

// norm (B, H, N, 2) fp32 holds the largest score of each query and 1 / the sum of the exponentials.
extern "C" void attend_forward(const Shape* s, const Tensors* t, void* out, float* norm, void* keys, void* values) {
    const int64_t parts = s->threads < s->groups ? s->threads : s->groups;
#pragma omp parallel for num_threads(parts)
    for (int64_t part = 0; part < parts; ++part)
        forward(*s, *t, out, norm, keys, values, part * s->groups / parts, (part + 1) * s->groups / parts);
}

extern "C" void attend_backward(const Shape* s, const Tensors* t, const void* out, const float* norm,
                                const Gradients* to) {
    const int64_t parts = s->threads < s->groups ? s->threads : s->groups;
#pragma omp parallel for num_threads(parts)
    for (int64_t part = 0; part < parts; ++part)
        backward(*s, *t, out, norm, *to, part * s->groups / parts, (part + 1) * s->groups / parts);
}
