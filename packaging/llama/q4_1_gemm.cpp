// Q4_1 weights times Q8_1 activations with AVX2, for any number of columns.
//
// llama.cpp offers every quantised matrix product to llamafile_sgemm() before it falls back to
// one dot product for each element of the result. Upstream's function has no kernel for Q4_1, so
// each weight is unpacked again for each column. packaging/llama_fast_build.cmake renames
// upstream's function to exclave_upstream_sgemm; the one below takes Q4_1 and passes on the rest.
//
// Eight rows of weights are interleaved, so that each 32-bit lane of a register belongs to a row:
// four bytes of a column, broadcast, meet four weights of all eight rows in one instruction, the
// scales of eight rows are one vector, and no sum goes across lanes. The interleaved rows stay in
// the first-level cache while all columns pass over them.

#include "ggml-cpu-impl.h"
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#include "llamafile/sgemm.h"

#include <algorithm>
#include <cstring>

extern "C" bool exclave_upstream_sgemm(const ggml_compute_params * params, int64_t m, int64_t n,
                                       int64_t k, const void * A, int64_t lda, const void * B,
                                       int64_t ldb, void * C, int64_t ldc, int Atype, int Btype,
                                       int Ctype);

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

namespace {

constexpr int64_t ROWS = 8;      // of a panel: the 32-bit lanes of a register
constexpr int64_t WORDS = 8;     // of four weights in a block of 32
constexpr int64_t DEPTH = 48;    // most blocks of a panel; 15 KiB, half of a usual L1
constexpr int64_t COLUMNS = 64;  // whose scales are held unpacked at a time
constexpr int64_t TILE = 4;      // columns whose sums stay in registers: 8 weights + 4 sums of 16

// One block of each of eight rows: word w of the quants holds elements 4w to 4w+3 of every row.
struct PanelBlock {
    __m256i quants[WORDS];
    __m256 scale;
    __m256 minimum;
};

// A block of a column: its scale, and its scale times the sum of its quants.
struct ColumnScale {
    float scale;
    float sum;
};

struct Scratch {
    PanelBlock panel[DEPTH];
    ColumnScale scales[COLUMNS * DEPTH];
};

inline __m256i two_rows(const void * low, const void * high) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i *>(low))),
        _mm_loadu_si128(static_cast<const __m128i *>(high)), 1);
}

// Interleave one block of eight rows. A block is 20 bytes: scale, minimum (half floats), 16 bytes
// of which the low nibbles are elements 0 to 15 and the high ones 16 to 31.
inline void interleave(const block_q4_1 * const rows[ROWS], int64_t block, PanelBlock & to) {
    const block_q4_1 * x[ROWS];
    for (int64_t row = 0; row < ROWS; ++row) {
        x[row] = rows[row] + block;
    }
    const __m256i q04 = two_rows(x[0]->qs, x[4]->qs);
    const __m256i q15 = two_rows(x[1]->qs, x[5]->qs);
    const __m256i q26 = two_rows(x[2]->qs, x[6]->qs);
    const __m256i q37 = two_rows(x[3]->qs, x[7]->qs);
    const __m256i low01 = _mm256_unpacklo_epi32(q04, q15);
    const __m256i low23 = _mm256_unpacklo_epi32(q26, q37);
    const __m256i high01 = _mm256_unpackhi_epi32(q04, q15);
    const __m256i high23 = _mm256_unpackhi_epi32(q26, q37);
    const __m256i words[WORDS / 2] = {
        _mm256_unpacklo_epi64(low01, low23),
        _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23),
        _mm256_unpackhi_epi64(high01, high23),
    };
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int64_t word = 0; word < WORDS / 2; ++word) {
        to.quants[word] = _mm256_and_si256(words[word], nibble);
        to.quants[word + WORDS / 2] =
            _mm256_and_si256(_mm256_srli_epi16(words[word], 4), nibble);
    }
    // The first 16 bytes of a block begin with scale and minimum: the same interleaving again.
    const __m256i s01 = _mm256_unpacklo_epi32(two_rows(x[0], x[4]), two_rows(x[1], x[5]));
    const __m256i s23 = _mm256_unpacklo_epi32(two_rows(x[2], x[6]), two_rows(x[3], x[7]));
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i halves = _mm256_permute4x64_epi64(
        _mm256_shuffle_epi8(_mm256_unpacklo_epi64(s01, s23), apart), 0xd8);
    to.scale = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    to.minimum = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
}

// Weights are read once and from memory: ask for those of the next panels, in their order there.
// Eight short rows side by side are no pattern that the processor's own prefetcher follows.
inline void fetch_ahead(const block_q4_1 * panel, int64_t block) {
    constexpr int64_t LINE = 64;
    constexpr int64_t AHEAD = 8192;
    const char * at = reinterpret_cast<const char *>(panel + block * ROWS) + AHEAD;
    for (int64_t line = 0; line < ROWS * int64_t(sizeof(block_q4_1)); line += LINE) {
        _mm_prefetch(at + line, _MM_HINT_NTA);
    }
}

// Four bytes of a column, in every lane.
inline __m256i broadcast(const int8_t * from) {
    int word;
    std::memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

// Eight rows times N columns over `depth` blocks, added to what `sums` holds.
template <int N>
inline void multiply(const PanelBlock * panel, int64_t depth, const block_q8_1 * columns,
                     int64_t stride, const ColumnScale * scales, __m256 (&sums)[N]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t block = 0; block < depth; ++block) {
        const PanelBlock & x = panel[block];
        for (int column = 0; column < N; ++column) {
            const int8_t * y = columns[column * stride + block].qs;
            // A pair is at most 2 * 15 * 128 = 3840, and eight of them stay below 2^15.
            __m256i pairs = _mm256_maddubs_epi16(x.quants[0], broadcast(y));
            for (int64_t word = 1; word < WORDS; ++word) {
                pairs = _mm256_add_epi16(
                    pairs, _mm256_maddubs_epi16(x.quants[word], broadcast(y + 4 * word)));
            }
            const __m256 dots = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            const ColumnScale & scale = scales[column * DEPTH + block];
            sums[column] = _mm256_fmadd_ps(_mm256_mul_ps(x.scale, _mm256_set1_ps(scale.scale)),
                                           dots, sums[column]);
            sums[column] =
                _mm256_fmadd_ps(x.minimum, _mm256_set1_ps(scale.sum), sums[column]);
        }
    }
}

// The N columns at `to` get eight (or, at the edge, fewer) rows; `first`: nothing is there yet.
template <int N>
void tile(const PanelBlock * panel, int64_t depth, const block_q8_1 * columns, int64_t stride,
          const ColumnScale * scales, float * to, int64_t ldc, int64_t rows, bool first) {
    __m256 sums[N];
    alignas(32) float edge[ROWS] = {};
    for (int column = 0; column < N; ++column) {
        const float * from = to + column * ldc;
        if (first) {
            sums[column] = _mm256_setzero_ps();
        } else if (rows == ROWS) {
            sums[column] = _mm256_loadu_ps(from);
        } else {
            std::copy_n(from, rows, edge);
            sums[column] = _mm256_load_ps(edge);
        }
    }
    multiply<N>(panel, depth, columns, stride, scales, sums);
    for (int column = 0; column < N; ++column) {
        if (rows == ROWS) {
            _mm256_storeu_ps(to + column * ldc, sums[column]);
        } else {
            _mm256_store_ps(edge, sums[column]);
            std::copy_n(edge, rows, to + column * ldc);
        }
    }
}

struct Product {
    int64_t n, k;
    const block_q4_1 * A;
    int64_t lda;
    const block_q8_1 * B;
    int64_t ldb;
    float * C;
    int64_t ldc;

    // Rows [begin, end) of all columns.
    void compute(int64_t begin, int64_t end) const {
        Scratch scratch;
        const int64_t parts = (k + DEPTH - 1) / DEPTH;
        for (int64_t left = 0; left < n; left += COLUMNS) {
            const int64_t width = std::min(COLUMNS, n - left);
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t from = part * k / parts;
                const int64_t depth = (part + 1) * k / parts - from;
                unpack_scales(scratch, left, width, from, depth);
                for (int64_t row = begin; row < end; row += ROWS) {
                    const int64_t rows = std::min(ROWS, end - row);
                    unpack_rows(scratch, row, rows, from, depth);
                    for (int64_t column = 0; column < width; column += TILE) {
                        pass(scratch, row, rows, left + column, column,
                             std::min(TILE, width - column), from, depth);
                    }
                }
            }
        }
    }

  private:
    void unpack_scales(Scratch & scratch, int64_t left, int64_t width, int64_t from,
                       int64_t depth) const {
        for (int64_t column = 0; column < width; ++column) {
            const block_q8_1 * y = B + (left + column) * ldb + from;
            for (int64_t block = 0; block < depth; ++block) {
                int pair;
                std::memcpy(&pair, &y[block], sizeof pair);
                const __m128 both = _mm_cvtph_ps(_mm_cvtsi32_si128(pair));
                _mm_storel_pi(
                    reinterpret_cast<__m64 *>(&scratch.scales[column * DEPTH + block]), both);
            }
        }
    }

    void unpack_rows(Scratch & scratch, int64_t row, int64_t rows, int64_t from,
                     int64_t depth) const {
        const block_q4_1 * at[ROWS];
        for (int64_t i = 0; i < ROWS; ++i) {
            // Past the edge the last row again: computed, never stored.
            at[i] = A + (row + std::min(i, rows - 1)) * lda + from;
        }
        for (int64_t block = 0; block < depth; ++block) {
            fetch_ahead(at[0], block);
            interleave(at, block, scratch.panel[block]);
        }
    }

    void pass(const Scratch & scratch, int64_t row, int64_t rows, int64_t column, int64_t held,
              int64_t width, int64_t from, int64_t depth) const {
        const block_q8_1 * y = B + column * ldb + from;
        const ColumnScale * scales = scratch.scales + held * DEPTH;
        float * to = C + column * ldc + row;
        const bool first = from == 0;
        switch (width) {
            case 1: return tile<1>(scratch.panel, depth, y, ldb, scales, to, ldc, rows, first);
            case 2: return tile<2>(scratch.panel, depth, y, ldb, scales, to, ldc, rows, first);
            case 3: return tile<3>(scratch.panel, depth, y, ldb, scales, to, ldc, rows, first);
            default: return tile<4>(scratch.panel, depth, y, ldb, scales, to, ldc, rows, first);
        }
    }
};

}  // namespace

// C[j * ldc + i] = row i of A times column j of B; k counts blocks. Every thread calls it.
extern "C" bool llamafile_sgemm(const ggml_compute_params * params, int64_t m, int64_t n,
                                int64_t k, const void * A, int64_t lda, const void * B,
                                int64_t ldb, void * C, int64_t ldc, int Atype, int Btype,
                                int Ctype) {
    if (Atype != GGML_TYPE_Q4_1 || Btype != GGML_TYPE_Q8_1 || Ctype != GGML_TYPE_F32) {
        return exclave_upstream_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype,
                                      Ctype);
    }
    if (n == 1 && k > DEPTH) {
        // One long column gains nothing from the interleaving, and whole rows, as upstream reads
        // them, come faster from memory than parts of eight.
        return false;
    }
    const int64_t panels = (m + ROWS - 1) / ROWS;
    const int64_t begin = panels * params->ith / params->nth * ROWS;
    const int64_t end = std::min(m, panels * (params->ith + 1) / params->nth * ROWS);
    const Product product{n, k, static_cast<const block_q4_1 *>(A), lda,
                          static_cast<const block_q8_1 *>(B), ldb, static_cast<float *>(C), ldc};
    product.compute(begin, end);
    return true;
}

#else  // another processor, or x86 without AVX2: upstream's own way

extern "C" bool llamafile_sgemm(const ggml_compute_params * params, int64_t m, int64_t n,
                                int64_t k, const void * A, int64_t lda, const void * B,
                                int64_t ldb, void * C, int64_t ldc, int Atype, int Btype,
                                int Ctype) {
    return exclave_upstream_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
}

#endif
