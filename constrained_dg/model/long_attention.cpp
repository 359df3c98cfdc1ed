// softmax(q k^T) v over many keys in bf16, on processors with AVX-512 BF16: scores, maxima and sums stay in fp32.
//
// Keys and values are read once, a tile at a time. A tile is laid out so that one instruction multiplies 16 columns by
// a pair of numbers of a row and adds both products in fp32; then every block of rows takes its scores, exponentials
// and sums while the tile is in the cache. Sums over tiles are joined by running maxima (Dao et al., FlashAttention,
// 2022).
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#ifndef __AVX512BF16__
#error "this processor multiplies no bf16 numbers"
#endif

namespace {

constexpr int64_t ROWS = 6, LANES = 16, VECTORS = 4, WIDTH = LANES * VECTORS;
constexpr int64_t TILE_NUMBERS = 65536;  // keys of a tile times numbers of a head: 128 KB, and as much of values

struct Shape {
    int64_t batch, groups, queries, keys, head;
    int64_t key_batch, key_token, key_group;  // steps, in numbers
    int64_t value_batch, value_token, value_group;
    int64_t threads;
};

// sums[r][i] = sum over j of row[r][j] . columns[j][i], where both hold pairs of bf16 numbers. The sums stay in
// registers, since every index into `sum` is known when this is compiled.
inline void product(const uint32_t* row, int64_t step, const uint32_t* columns, int64_t pairs, float* sums) {
    __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; ++c) sum[r][c] = _mm512_setzero_ps();
    for (int64_t j = 0; j < pairs; ++j) {
        __m512bh column[VECTORS];
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; ++c)
            column[c] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(columns + j * WIDTH + c * LANES));
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r) {
            const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(row[r * step + j])));
#pragma GCC unroll 4
            for (int c = 0; c < VECTORS; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], pair, column[c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; ++c) _mm512_storeu_ps(sums + r * WIDTH + c * LANES, sum[r][c]);
}

// e^x for x <= 0, to a few units in the last place of fp32.
inline __m512 exponential(__m512 x) {
    // Far below what fp32 holds, but finite: -inf less its whole part is no number.
    const __m512 y = _mm512_max_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _mm512_set1_ps(-300.f));
    const __m512 whole = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(y, whole);  // 2^rest by its Taylor series, |rest| <= 1/2
    __m512 sum = _mm512_set1_ps(1.54035304e-4f);
    for (const float each : {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(each));
    return _mm512_scalef_ps(sum, whole);
}

void one_group(const Shape& s, const uint16_t* q, int64_t rows, const uint16_t* k, const uint16_t* v, uint16_t* out,
               float* total) {
    const int64_t tile = std::max(TILE_NUMBERS / s.head / WIDTH, int64_t{1}) * WIDTH, pairs = s.head / 2;
    const int64_t padded = (rows + ROWS - 1) / ROWS * ROWS;
    std::vector<uint32_t> keys(tile * pairs), values(tile / 2 * s.head), queries(padded * pairs);
    std::vector<float> scores(ROWS * tile), sums_of(padded * s.head), largest(padded), exponentials(padded);
    std::vector<uint16_t> weights(ROWS * tile);
    const std::vector<uint16_t> nothing(s.head);
    std::copy_n(reinterpret_cast<const uint32_t*>(q), rows * pairs, queries.data());
    std::fill(largest.begin(), largest.end(), -std::numeric_limits<float>::infinity());
    float sums[ROWS * WIDTH];
    for (int64_t start = 0; start < s.keys; start += tile) {
        const int64_t count = std::min(tile, s.keys - start);
        const int64_t used = (count + WIDTH - 1) / WIDTH * WIDTH;  // the rest are zeros, and weigh nothing
        // 1. Pairs of a key's numbers, keys side by side; pairs of two tokens' values, numbers side by side.
        for (int64_t t = 0; t < used; ++t) {
            uint32_t* to = keys.data() + t / WIDTH * WIDTH * pairs + t % WIDTH;
            const auto* from = reinterpret_cast<const uint32_t*>(k + (start + t) * s.key_token);
            for (int64_t j = 0; j < pairs; ++j) to[j * WIDTH] = t < count ? from[j] : 0;
        }
        for (int64_t t = 0; t < used; t += 2) {
            const uint16_t* one = t < count ? v + (start + t) * s.value_token : nothing.data();
            const uint16_t* two = t + 1 < count ? one + s.value_token : nothing.data();
            for (int64_t d = 0; d < s.head; d += WIDTH) {
                uint32_t* to = values.data() + d * (tile / 2) + t / 2 * WIDTH;
                for (int64_t i = 0; i < WIDTH; ++i) to[i] = one[d + i] | static_cast<uint32_t>(two[d + i]) << 16;
            }
        }
        for (int64_t row = 0; row < padded; row += ROWS) {
            // 2. Scores, and their largest so far.
            __m512 most[ROWS];
            for (int r = 0; r < ROWS; ++r) most[r] = _mm512_set1_ps(largest[row + r]);
            for (int64_t t = 0; t < used; t += WIDTH) {
                product(queries.data() + row * pairs, pairs, keys.data() + t * pairs, pairs, sums);
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < VECTORS; ++c) {
                        const int64_t left = std::clamp(count - t - c * LANES, int64_t{0}, LANES);
                        const auto there = static_cast<__mmask16>((1u << left) - 1);
                        const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
                        const __m512 score = _mm512_mask_loadu_ps(none, there, sums + r * WIDTH + c * LANES);
                        most[r] = _mm512_max_ps(most[r], score);
                        _mm512_storeu_ps(scores.data() + r * tile + t + c * LANES, score);
                    }
            }
            // 3. Exponentials, their sums, and what earlier sums shrink by.
            float shrink[ROWS];
            for (int r = 0; r < ROWS; ++r) {
                const float now = _mm512_reduce_max_ps(most[r]);
                shrink[r] = std::exp(largest[row + r] - now);
                __m512 sum = _mm512_setzero_ps();
                for (int64_t t = 0; t < used; t += LANES) {
                    const __m512 score = _mm512_loadu_ps(scores.data() + r * tile + t);
                    const __m512 weight = exponential(_mm512_sub_ps(score, _mm512_set1_ps(now)));
                    sum = _mm512_add_ps(sum, weight);
                    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight));
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights.data() + r * tile + t), rounded);
                }
                exponentials[row + r] = exponentials[row + r] * shrink[r] + _mm512_reduce_add_ps(sum);
                largest[row + r] = now;
            }
            // 4. Sums of values.
            for (int64_t d = 0; d < s.head; d += WIDTH) {
                product(reinterpret_cast<const uint32_t*>(weights.data()), tile / 2, values.data() + d * (tile / 2),
                        used / 2, sums);
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < VECTORS; ++c) {
                        float* at = sums_of.data() + (row + r) * s.head + d + c * LANES;
                        const __m512 before = _mm512_loadu_ps(at);
                        const __m512 added = _mm512_loadu_ps(sums + r * WIDTH + c * LANES);
                        _mm512_storeu_ps(at, _mm512_fmadd_ps(before, _mm512_set1_ps(shrink[r]), added));
                    }
            }
        }
    }
    for (int64_t row = 0; row < rows; ++row) {
        total[row] = largest[row] + std::log(exponentials[row]);
        for (int64_t d = 0; d < s.head; d += LANES) {
            const __m512 answer = _mm512_div_ps(_mm512_loadu_ps(sums_of.data() + row * s.head + d),
                                                _mm512_set1_ps(exponentials[row]));
            const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(answer));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + row * s.head + d), rounded);
        }
    }
}

}  // namespace

// Queries and answers (B, G, N, K) without gaps, K a multiple of 64; keys and values with the steps of `shape`; total
// (B, G, N), the logarithm of each query's sum of exponentials.
extern "C" void attend_long(const Shape* shape, const uint16_t* q, const uint16_t* k, const uint16_t* v, uint16_t* out,
                            float* total) {
    const Shape& s = *shape;
    const int64_t pairs = s.batch * s.groups, parts = (s.threads + pairs - 1) / pairs;
    const int64_t share = (s.queries + parts - 1) / parts;
#pragma omp parallel for collapse(2) num_threads(s.threads) schedule(static)
    for (int64_t pair = 0; pair < pairs; ++pair)
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t first = part * share, rows = std::min(share, s.queries - first);
            if (rows <= 0) continue;
            const int64_t b = pair / s.groups, g = pair % s.groups, at = pair * s.queries + first;
            one_group(s, q + at * s.head, rows, k + b * s.key_batch + g * s.key_group,
                      v + b * s.value_batch + g * s.value_group, out + at * s.head, total + at);
        }
}
