// Attention with learned biases for training on a CPU: softmax(q k^T + bias) v and its gradients.
//
// One head of one row of the batch at a time: its scores stay in the cache, are never stored for the backward pass,
// and the gradient of a bias that all rows share is summed where it is computed. Compiled at run time by native.py,
// with HEAD, the size of a head (a multiple of 8). Tensors are contiguous: q (B, N, H, HEAD), k and v (B, M, G, HEAD),
// bias (1 or B, H, N, M) fp32; q, k, v, out and their gradients are fp32 or bf16, everything is computed in fp32.

#include <cstdint>
#include <cstdlib>
#include <cstring>

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i16 __attribute__((vector_size(64)));

namespace {

constexpr float kMasked = -1e30f;  // at keys beyond M, which fill up the last vector

float from_bf16(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
}

void load(float* to, const void* from, int64_t at, bool half) {
    if (half)
        for (int d = 0; d < HEAD; ++d) to[d] = from_bf16(((const uint16_t*)from)[at + d]);
    else
        std::memcpy(to, (const float*)from + at, HEAD * sizeof(float));
}

void store(void* to, int64_t at, const float* from, bool half) {
    if (half)
        for (int d = 0; d < HEAD; ++d) ((uint16_t*)to)[at + d] = to_bf16(from[d]);
    else
        std::memcpy((float*)to + at, from, HEAD * sizeof(float));
}

template <typename V = v16>
inline V get(const float* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <typename V>
inline void put(float* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// exp(x) to about 1e-7, for x <= 0; 0 where exp(x) is below the smallest normal number.
v16 exponential(v16 x) {
    const v16 n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to an integer
    const v16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const v16 scaled = (v16)((i16)p + (__builtin_convertvector(n, i16) << 23));
    return x > -87.0f ? scaled : v16{};
}

// c[r, :] (+)= sum over t of a[r * rows + t * terms] * b[t, :], for R rows and C vectors V.
template <typename V, int R, int C>
inline void tile(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
                 int64_t count, bool add) {
    constexpr int W = sizeof(V) / sizeof(float);
    V sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) sum[r][j] = add ? get<V>(c + r * ldc + j * W) : V{};
    for (int64_t t = 0; t < count; ++t) {
        V right[C];
        for (int j = 0; j < C; ++j) right[j] = get<V>(b + t * ldb + j * W);
        for (int r = 0; r < R; ++r) {
            const float left = a[r * rows + t * terms];
            for (int j = 0; j < C; ++j) sum[r][j] += right[j] * left;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) put<V>(c + r * ldc + j * W, sum[r][j]);
}

template <typename V, int C>
void stripe(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
            int64_t height, int64_t count, bool add) {
    constexpr int R = 9;
    int64_t r = 0;
    for (; r + R <= height; r += R)
        tile<V, R, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
    for (; r + 3 <= height; r += 3)
        tile<V, 3, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
    for (; r < height; ++r) tile<V, 1, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
}

// c (height, width) (+)= a b with width a multiple of the vector V.
template <typename V>
void product(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
             int64_t height, int64_t width, int64_t count, bool add) {
    constexpr int W = sizeof(V) / sizeof(float);
    int64_t j = 0;
    for (; j + 3 * W <= width; j += 3 * W)
        stripe<V, 3>(a, rows, terms, b + j, ldb, c + j, ldc, height, count, add);
    for (; j < width; j += W) stripe<V, 1>(a, rows, terms, b + j, ldb, c + j, ldc, height, count, add);
}

float maximum(const float* x, int64_t count) {
    v16 most = get(x);
    for (int64_t j = 16; j < count; j += 16) {
        const v16 other = get(x + j);
        most = other > most ? other : most;
    }
    float value = most[0];
    for (int j = 1; j < 16; ++j) value = most[j] > value ? most[j] : value;
    return value;
}

float total(v16 x) {
    float value = 0;
    for (int j = 0; j < 16; ++j) value += x[j];
    return value;
}

struct Shape {
    int64_t batch, queries, keys, heads, groups, bias_rows;
    int64_t width() const { return (keys + 15) / 16 * 16; }  // of a row of scores
    int64_t shared() const { return heads / groups; }
    int64_t block() const {  // queries at a time: their scores take at most 128 KB
        const int64_t most = (128 << 10) / (width() * 4) / 9 * 9;
        return most < 9 ? 9 : most < queries ? most : queries;
    }
};

struct Buffer {
    float* data;
    explicit Buffer(int64_t count) : data((float*)std::calloc(count + 16, sizeof(float))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(data); }
    operator float*() { return data; }
};

// The keys or values of one head: (M, HEAD), and transposed (HEAD, width).
void load_keys(const Shape& s, const void* from, int64_t b, int64_t g, bool half, float* plain, float* across) {
    const int64_t width = s.width();
    for (int64_t j = 0; j < s.keys; ++j) {
        float* row = plain + j * HEAD;
        load(row, from, ((b * s.keys + j) * s.groups + g) * HEAD, half);
        if (across)
            for (int d = 0; d < HEAD; ++d) across[d * width + j] = row[d];
    }
}

void load_bias(const Shape& s, const float* bias, int64_t b, int64_t h, float* to) {
    const int64_t width = s.width();
    const float* from = bias + ((s.bias_rows > 1 ? b : 0) * s.heads + h) * s.queries * s.keys;
    for (int64_t i = 0; i < s.queries; ++i) {
        std::memcpy(to + i * width, from + i * s.keys, s.keys * sizeof(float));
        for (int64_t j = s.keys; j < width; ++j) to[i * width + j] = kMasked;
    }
}

void forward(const Shape& s, const void* q, const void* k, const void* v, const float* bias, void* out, float* norm,
             bool half, int64_t g) {
    const int64_t width = s.width(), block = s.block();
    Buffer keys(HEAD * width), values(s.keys * HEAD), unused(s.keys * HEAD), added(s.queries * width);
    Buffer query(block * HEAD), scores(block * width), result(block * HEAD);
    for (int64_t shared = 0; shared < s.shared(); ++shared)
        for (int64_t b = 0; b < s.batch; ++b) {
            const int64_t h = g * s.shared() + shared;
            if (b == 0 || s.bias_rows > 1) load_bias(s, bias, b, h, added);
            load_keys(s, k, b, g, half, unused, keys);
            load_keys(s, v, b, g, half, values, nullptr);
            for (int64_t first = 0; first < s.queries; first += block) {
                const int64_t rows = s.queries - first < block ? s.queries - first : block;
                for (int64_t i = 0; i < rows; ++i)
                    load(query + i * HEAD, q, ((b * s.queries + first + i) * s.heads + h) * HEAD, half);
                std::memcpy(scores, added + first * width, rows * width * sizeof(float));
                product<v16>(query, HEAD, 1, keys, width, scores, width, rows, width, HEAD, true);
                for (int64_t i = 0; i < rows; ++i) {
                    float* row = scores + i * width;
                    const float most = maximum(row, width);
                    v16 sum{};
                    for (int64_t j = 0; j < width; j += 16) {
                        const v16 e = exponential(get(row + j) - most);
                        put(row + j, e);
                        sum += e;
                    }
                    const float all = total(sum);
                    norm[((b * s.heads + h) * s.queries + first + i) * 2] = most;
                    norm[((b * s.heads + h) * s.queries + first + i) * 2 + 1] = 1 / all;
                }
                product<v8>(scores, width, 1, values, HEAD, result, HEAD, rows, HEAD, s.keys, false);
                for (int64_t i = 0; i < rows; ++i) {
                    const float scale = norm[((b * s.heads + h) * s.queries + first + i) * 2 + 1];
                    for (int d = 0; d < HEAD; ++d) result[i * HEAD + d] *= scale;
                    store(out, ((b * s.queries + first + i) * s.heads + h) * HEAD, result + i * HEAD, half);
                }
            }
        }
}

void backward(const Shape& s, const void* q, const void* k, const void* v, const float* bias, const void* out,
              const float* norm, const void* grad, void* dq, void* dk, void* dv, float* dbias, bool half, int64_t g) {
    const int64_t width = s.width(), block = s.block();
    Buffer keys(s.keys * HEAD), keys_across(HEAD * width), values(s.keys * HEAD), values_across(HEAD * width);
    Buffer added(s.queries * width), query(block * HEAD), given(block * HEAD), answer(HEAD), result(block * HEAD);
    Buffer weights(block * width), slopes(block * width), to_keys(s.keys * HEAD), to_values(s.keys * HEAD);
    Buffer kept(s.batch * s.keys * HEAD * (s.shared() > 1 ? 2 : 0));  // gradients of shared keys and values
    for (int64_t shared = 0; shared < s.shared(); ++shared)
        for (int64_t b = 0; b < s.batch; ++b) {
            const int64_t h = g * s.shared() + shared;
            if (b == 0 || s.bias_rows > 1) load_bias(s, bias, b, h, added);
            load_keys(s, k, b, g, half, keys, keys_across);
            load_keys(s, v, b, g, half, values, values_across);
            float* key_sum = s.shared() > 1 ? kept + b * 2 * s.keys * HEAD : to_keys;
            float* value_sum = s.shared() > 1 ? key_sum + s.keys * HEAD : to_values;
            for (int64_t first = 0; first < s.queries; first += block) {
                const int64_t rows = s.queries - first < block ? s.queries - first : block;
                const bool more = first > 0 || shared > 0;
                for (int64_t i = 0; i < rows; ++i) {
                    const int64_t at = ((b * s.queries + first + i) * s.heads + h) * HEAD;
                    load(query + i * HEAD, q, at, half);
                    load(given + i * HEAD, grad, at, half);
                }
                std::memcpy(weights, added + first * width, rows * width * sizeof(float));
                product<v16>(query, HEAD, 1, keys_across, width, weights, width, rows, width, HEAD, true);
                product<v16>(given, HEAD, 1, values_across, width, slopes, width, rows, width, HEAD, false);
                for (int64_t i = 0; i < rows; ++i) {
                    const int64_t at = (b * s.heads + h) * s.queries + first + i;
                    load(answer, out, ((b * s.queries + first + i) * s.heads + h) * HEAD, half);
                    float mean = 0;
                    for (int d = 0; d < HEAD; ++d) mean += answer[d] * given[i * HEAD + d];
                    const float most = norm[at * 2], scale = norm[at * 2 + 1];
                    float *weight = weights + i * width, *slope = slopes + i * width;
                    for (int64_t j = 0; j < width; j += 16) {
                        const v16 p = exponential(get(weight + j) - most) * scale;
                        put(weight + j, p);
                        put(slope + j, p * (get(slope + j) - mean));
                    }
                    float* sum = dbias + (((s.bias_rows > 1 ? b : 0) * s.heads + h) * s.queries + first + i) * s.keys;
                    for (int64_t j = 0; j < s.keys; ++j) sum[j] += slope[j];
                }
                product<v8>(slopes, width, 1, keys, HEAD, result, HEAD, rows, HEAD, s.keys, false);
                for (int64_t i = 0; i < rows; ++i)
                    store(dq, ((b * s.queries + first + i) * s.heads + h) * HEAD, result + i * HEAD, half);
                product<v8>(weights, 1, width, given, HEAD, value_sum, HEAD, s.keys, HEAD, rows, more);
                product<v8>(slopes, 1, width, query, HEAD, key_sum, HEAD, s.keys, HEAD, rows, more);
            }
            if (shared == s.shared() - 1)
                for (int64_t j = 0; j < s.keys; ++j) {
                    const int64_t at = ((b * s.keys + j) * s.groups + g) * HEAD;
                    store(dk, at, key_sum + j * HEAD, half);
                    store(dv, at, value_sum + j * HEAD, half);
                }
        }
}

}  // namespace

// norm (B, H, N, 2) fp32 holds the largest score of each query and 1 / the sum of the exponentials.
extern "C" void attend_forward(const int64_t* shape, int half, int threads, const void* q, const void* k, const void* v,
                               const float* bias, void* out, float* norm) {
    const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
#pragma omp parallel for num_threads(threads)
    for (int64_t g = 0; g < s.groups; ++g) forward(s, q, k, v, bias, out, norm, half, g);
}

// dbias is zero at first.
extern "C" void attend_backward(const int64_t* shape, int half, int threads, const void* q, const void* k,
                                const void* v, const float* bias, const void* out, const float* norm, const void* grad,
                                void* dq, void* dk, void* dv, float* dbias) {
    const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
#pragma omp parallel for num_threads(threads)
    for (int64_t g = 0; g < s.groups; ++g) backward(s, q, k, v, bias, out, norm, grad, dq, dk, dv, dbias, half, g);
}
