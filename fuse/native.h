/* What the C libraries of stage two share: which instructions a machine has, large pages, threads. */

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* The best instruction set that this machine has: 1 baseline, 2 AVX2, 3 AVX-512. */
static int32_t best_instructions(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return 3;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 2;
#endif
    return 1;
}

/* Asks for large pages under an output that is to be written for the first time. A fault for every 4 KiB of it took half of the
 * time where much is written. */
static void large_pages(void *from, int64_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t large = 1 << 21, first = ((uintptr_t)from + large - 1) / large * large;
    const uintptr_t last = ((uintptr_t)from + (uintptr_t)bytes) / large * large;
    if (last > first)
        madvise((void *)first, last - first, MADV_HUGEPAGE); /* a wish: what comes of it is the system's affair */
#endif
}

/* Threads of one call: they begin and end with it, and take one part after the other until none is left. A new thread starts on
 * a core that is idle; one that is woken up often starts beside the one that woke it, and waits there for milliseconds. Which
 * thread does a part changes nothing in what comes out of it. */

/* Does a part; 0, or a number that says what is wrong. */
typedef int32_t (*do_part)(const void *given, int32_t part);

struct job {
    do_part one;
    const void *given;
    int32_t parts, next, code; /* next: the part that nobody has taken yet */
};

static void *take_parts(void *of)
{
    struct job *job = of;
    for (;;) {
        const int32_t own = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (own >= job->parts)
            return NULL;
        const int32_t code = job->one(job->given, own);
        if (code)
            __atomic_store_n(&job->code, code, __ATOMIC_RELAXED);
    }
}

/* All parts, by `threads` threads, the caller being one; where the system gives fewer, these do it all. 0, or what went wrong with
 * one of the parts. Signals stay with threads that know them. */
static int32_t in_threads(int32_t threads, int32_t parts, do_part one, const void *given)
{
    struct job job = {one, given, parts, 0, 0};
    const int32_t others = (threads < parts ? threads : parts) - 1;
    int32_t made = 0;
    pthread_t *ids = others > 0 ? malloc(sizeof *ids * (size_t)others) : NULL;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (ids && made < others && !pthread_create(&ids[made], NULL, take_parts, &job))
        made++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    take_parts(&job);
    for (int32_t i = 0; i < made; i++)
        pthread_join(ids[i], NULL);
    free(ids);
    return job.code;
}
