/* Scattered rows of memory-mapped shards -> one batch. The twin of the Python loops in gather.py, which says what is computed.
 *
 * Plain C without Python's headers, called through ctypes (which releases the interpreter's lock): any compiler will do, and
 * one build serves every Python. The caller has checked every index; nothing is checked here.
 */

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

EXPORT int32_t mambavl_gather_version(void) { return 1; }

/* out[i] = view views[i] of row rows[i]; a row begins `stride` bytes after the one before it in its shard */
EXPORT void mambavl_gather_rows(const char *const *shards, int64_t rows_per_shard, int64_t stride, const int64_t *rows,
                                const int64_t *views, int64_t n, int64_t bytes, char *out)
{
    for (int64_t i = 0; i < n; i++) {
        const char *row = shards[rows[i] / rows_per_shard] + rows[i] % rows_per_shard * stride;
        memcpy(out + i * bytes, row + views[i] * bytes, (size_t)bytes);
    }
}

/* out[i, :lengths[i]] = tokens from starts[i] on, the rest zero; `per_chunk` tokens lie together, chunks `stride` bytes apart */
EXPORT void mambavl_gather_tokens(const char *const *shards, int64_t tokens_per_shard, int64_t per_chunk, int64_t stride,
                                  const int64_t *starts, const int64_t *lengths, int64_t n, int64_t longest, int64_t bytes,
                                  char *out)
{
    for (int64_t i = 0; i < n; i++, out += longest * bytes) {
        const char *shard = shards[starts[i] / tokens_per_shard];
        int64_t place = starts[i] % tokens_per_shard, done = 0;
        while (done < lengths[i]) { /* a text may reach over the border of a chunk */
            int64_t first = (place + done) % per_chunk, count = per_chunk - first;
            if (count > lengths[i] - done)
                count = lengths[i] - done;
            memcpy(out + done * bytes, shard + (place + done) / per_chunk * stride + first * bytes, (size_t)(count * bytes));
            done += count;
        }
        memset(out + done * bytes, 0, (size_t)((longest - done) * bytes));
    }
}
