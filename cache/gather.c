/* Scattered rows of memory-mapped shards -> one batch. The twin of the Python loops in gather.py, which says what is computed.
 *
 * Plain C without Python's headers, called through ctypes (which releases the interpreter's lock): any compiler will do.
 * The caller has checked every index; nothing is checked here.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#define LINE 64
#define AHEAD (32 * 1024) /* about what a first-level cache holds */

/* Ask for the beginning of what is copied next: the hardware's own prefetcher stops at the border of a page. Measured on
 * rows of 24 KiB: a quarter faster. */
static void prefetch(const char *from, int64_t bytes)
{
#if defined(__GNUC__)
    for (int64_t i = 0; i < (bytes < AHEAD ? bytes : AHEAD); i += LINE)
        __builtin_prefetch(from + i);
#else
    (void)from, (void)bytes;
#endif
}

EXPORT int32_t mambavl_gather_version(void) { return 1; }

/* out[i] = view views[i] of row rows[i]; a row begins `stride` bytes after the one before it in its shard */
EXPORT void mambavl_gather_rows(const char *const *shards, int64_t rows_per_shard, int64_t stride, const int64_t *rows,
                                const int64_t *views, int64_t n, int64_t bytes, char *out)
{
    const char *next = NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *row = next;
        if (i == 0)
            row = shards[rows[0] / rows_per_shard] + rows[0] % rows_per_shard * stride + views[0] * bytes;
        if (i + 1 < n) {
            next = shards[rows[i + 1] / rows_per_shard] + rows[i + 1] % rows_per_shard * stride + views[i + 1] * bytes;
            prefetch(next, bytes);
        }
        memcpy(out + i * bytes, row, (size_t)bytes);
    }
}

/* out[i, :lengths[i]] = tokens from starts[i] on, the rest zero; `per_chunk` tokens lie together, chunks `stride` bytes apart */
EXPORT void mambavl_gather_tokens(const char *const *shards, int64_t tokens_per_shard, int64_t per_chunk, int64_t stride,
                                  const int64_t *starts, const int64_t *lengths, int64_t n, int64_t longest, int64_t bytes,
                                  char *out)
{
    for (int64_t i = 0; i < n; i++, out += longest * bytes) {
        const char *shard = lengths[i] ? shards[starts[i] / tokens_per_shard] : NULL;
        int64_t place = starts[i] % tokens_per_shard, done = 0;
        if (i + 1 < n && lengths[i + 1]) {
            int64_t next = starts[i + 1] % tokens_per_shard;
            prefetch(shards[starts[i + 1] / tokens_per_shard] + next / per_chunk * stride + next % per_chunk * bytes,
                     lengths[i + 1] * bytes);
        }
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
