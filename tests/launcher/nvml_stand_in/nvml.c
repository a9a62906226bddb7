/*
 * A stand-in for libnvidia-ml.so.1, written from nvml.h alone, for tests of RealNvml.
 *
 * It holds one or two A100-40GB in MIG terms: modes, profiles, placements, GPU and compute instances,
 * MIG devices. It is strict where the real one would crash or refuse: structure versions and sizes,
 * NULL and stale handles, calls before init, arrays that are too small, placements passed by value
 * (which arrive as an address in the first page and more), destroying in the wrong order.
 *
 * State lies in the file that NVML_STAND_IN_STATE names, shared by processes, as a driver's is.
 * NVML_STAND_IN_LOG names a file that gets one line for each call.
 * NVML_STAND_IN_REFUSE=FUNCTION:CODE has one function always answer a code.
 * NVML_STAND_IN_COUNT is said to be the number of instances of each profile, and is written to arrays.
 * NVML_STAND_IN_CLIENTS=1 has who looks at a MIG device be its client, until the library is shut down.
 * NVML_STAND_IN_EVENTS names a file with a line for each event: GPU, XID, GPU and compute instance.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
    NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, IN_USE = 19, INSUFFICIENT_RESOURCES = 23,
    VERSION_MISMATCH = 25,
};

typedef struct { unsigned start, size; } placement_t;
typedef struct {
    unsigned id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount,
        decoderCount, encoderCount, jpegCount, ofaCount;
    unsigned long long memorySizeMB;
} profile_v1_t;
typedef struct {
    unsigned version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount,
        copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
    unsigned long long memorySizeMB;
    char name[96];
} profile_v2_t;
typedef struct { void *device; unsigned id, profileId; placement_t placement; } gi_info_t;
typedef struct {
    unsigned version, id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount,
        sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount;
    char name[96];
} ci_profile_v2_t;
typedef struct {
    unsigned id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount,
        sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount;
} ci_profile_v1_t;
typedef struct {
    void *device, *gpuInstance;
    unsigned id, profileId;
    placement_t placement;
} ci_info_t;
typedef struct {
    unsigned multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount,
        sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} attributes_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    void *device;
    unsigned long long type, data;
    unsigned gi, ci;
} event_t;
typedef struct { unsigned magic; unsigned long long types[2]; long read_to; } event_set_t;

_Static_assert(sizeof(profile_v1_t) == 48, "nvmlGpuInstanceProfileInfo_t");
_Static_assert(sizeof(profile_v2_t) == 0x98, "nvmlGpuInstanceProfileInfo_v2_t");
_Static_assert(sizeof(ci_profile_v2_t) == 0x88, "nvmlComputeInstanceProfileInfo_v2_t");
_Static_assert(sizeof(ci_profile_v1_t) == 36, "nvmlComputeInstanceProfileInfo_t");
_Static_assert(sizeof(gi_info_t) == 24 && sizeof(ci_info_t) == 32, "instance infos");
_Static_assert(sizeof(attributes_t) == 40, "nvmlDeviceAttributes_t");
_Static_assert(sizeof(event_t) == 32, "nvmlEventData_t");

/* The A100-40GB as `nvidia-smi mig -lgip` and `-lgipp` list it. */
static const struct {
    unsigned index, id, slices, max, sm, size, places;
    unsigned long long mib;
    unsigned engines[5];
    unsigned starts[7];
    const char *name;
} PROFILES[] = {
    {0, 19, 1, 7, 14, 1, 7, 4864, {1, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6}, "MIG 1g.5gb"},
    {1, 14, 2, 3, 28, 2, 3, 9856, {2, 1, 0, 0, 0}, {0, 2, 4}, "MIG 2g.10gb"},
    {2, 9, 3, 2, 42, 4, 2, 19968, {3, 2, 0, 0, 0}, {0, 4}, "MIG 3g.20gb"},
    {3, 5, 4, 1, 56, 4, 1, 19968, {4, 2, 0, 0, 0}, {0}, "MIG 4g.20gb"},
    {4, 0, 7, 1, 98, 8, 1, 40192, {7, 5, 0, 1, 1}, {0}, "MIG 7g.40gb"},
    {7, 20, 1, 1, 14, 1, 7, 4864, {1, 1, 0, 1, 1}, {0, 1, 2, 3, 4, 5, 6}, "MIG 1g.5gb+me"},
    {9, 15, 1, 4, 14, 2, 4, 9856, {1, 1, 0, 0, 0}, {0, 2, 4, 6}, "MIG 1g.10gb"},
};
enum { PROFILE_COUNT = sizeof PROFILES / sizeof *PROFILES, INDEX_END = 18, GPUS_MAX = 2,
       GI_MAX = 7, CI_MAX = 7 };

typedef struct { unsigned magic, used, id, profile, start; } ci_t;
typedef struct { unsigned magic, used, id, profile, start; ci_t ci[CI_MAX]; } gi_t;
typedef struct { unsigned magic, mode, number; gi_t gi[GI_MAX]; } gpu_t;
typedef struct { unsigned gpus; gpu_t gpu[GPUS_MAX]; } state_t;
enum { GPU_MAGIC = 0x47505531, GI_MAGIC = 0x47493131, CI_MAGIC = 0x43493131 };

static state_t *S;
static int inits;
static int has_looked; /* at a MIG device, since the library was opened */
static event_set_t event_set; /* one at a time; none is to be left open */
enum { SET_MAGIC = 0x45564e54, XID = 8 };
/* MIG device handles: a table, so that a pointer tells which (gpu, gi, ci) it means. */
static struct { gpu_t *gpu; gi_t *gi; ci_t *ci; } migs[GPUS_MAX * GI_MAX * CI_MAX];

static int called(const char *name) {
    const char *path = getenv("NVML_STAND_IN_LOG"), *refuse = getenv("NVML_STAND_IN_REFUSE");
    if (path) {
        FILE *log = fopen(path, "a");
        if (log) { fprintf(log, "%s\n", name); fclose(log); }
    }
    if (inits <= 0 && strncmp(name, "nvmlInit", 8)) return UNINITIALIZED;
    size_t length = strlen(name);
    if (refuse && !strncmp(refuse, name, length) && refuse[length] == ':')
        return atoi(refuse + length + 1);
    return OK;
}
#define ENTER() do { int refused_ = called(__func__); if (refused_) return refused_; } while (0)

static int is_gpu(const void *h) {
    for (unsigned i = 0; S && i < S->gpus; i++)
        if (h == &S->gpu[i] && S->gpu[i].magic == GPU_MAGIC) return 1;
    return 0;
}
static gpu_t *gpu_of(const gi_t *h) {
    for (unsigned g = 0; S && g < S->gpus; g++)
        for (int i = 0; i < GI_MAX; i++)
            if (h == &S->gpu[g].gi[i] && h->used) return &S->gpu[g];
    return NULL;
}
static gi_t *gi_of(const ci_t *h) {
    for (unsigned g = 0; S && g < S->gpus; g++)
        for (int i = 0; i < GI_MAX; i++)
            for (int c = 0; c < CI_MAX; c++)
                if (h == &S->gpu[g].gi[i].ci[c] && h->used) return &S->gpu[g].gi[i];
    return NULL;
}
static int mig_of(const void *h) {
    for (size_t i = 0; i < sizeof migs / sizeof *migs; i++)
        if (h == &migs[i] && migs[i].ci && migs[i].ci->used && migs[i].gi->used) return (int)i;
    return -1;
}
static int by_id(unsigned id) {
    for (int i = 0; i < PROFILE_COUNT; i++) if (PROFILES[i].id == id) return i;
    return -1;
}
static int is_free(const gpu_t *g, unsigned start, unsigned size) {
    for (int i = 0; i < GI_MAX; i++) {
        if (!g->gi[i].used) continue;
        unsigned from = g->gi[i].start, to = from + PROFILES[g->gi[i].profile].size;
        if (start < to && from < start + size) return 0;
    }
    return 1;
}
static unsigned exist(const gpu_t *g, unsigned profile) {
    unsigned n = 0;
    for (int i = 0; i < GI_MAX; i++) n += g->gi[i].used && g->gi[i].profile == profile;
    return n;
}
static unsigned count_of(unsigned profile) {
    const char *told = getenv("NVML_STAND_IN_COUNT");
    return told ? (unsigned)atoi(told) : PROFILES[profile].max;
}
static int may_change(void) {
    const char *user = getenv("NVML_STAND_IN_USER");
    return !(user && !strcmp(user, "nobody"));
}

/* --- the library ------------------------------------------------------------------------- */
int nvmlInitWithFlags(unsigned flags) {
    int refused = called(__func__);
    if (refused) return refused;
    if (flags) return INVALID_ARGUMENT;
    if (!S) {
        const char *path = getenv("NVML_STAND_IN_STATE");
        int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
        if (file >= 0 && ftruncate(file, sizeof *S)) return 999;
        S = mmap(NULL, sizeof *S, PROT_READ | PROT_WRITE,
                 file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
        if (S == MAP_FAILED) { S = NULL; return 999; }
        if (!S->gpus) {
            const char *count = getenv("NVML_STAND_IN_GPUS");
            S->gpus = count ? (unsigned)atoi(count) : 1;
            for (unsigned i = 0; i < GPUS_MAX; i++) { S->gpu[i].magic = GPU_MAGIC; S->gpu[i].number = i; }
        }
    }
    inits++;
    return OK;
}
int nvmlShutdown(void) {
    ENTER();
    if (inits == 1 && event_set.magic) abort(); /* somebody may still wait for it */
    inits--;
    has_looked = 0;
    return OK;
}
static int in_own_way(void) { return has_looked && getenv("NVML_STAND_IN_CLIENTS"); }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { ENTER(); *count = S->gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    ENTER();
    if (index >= S->gpus) return INVALID_ARGUMENT;
    *handle = &S->gpu[index];
    return OK;
}
int nvmlDeviceGetUUID(void *h, char *text, unsigned length) {
    ENTER();
    int mig = mig_of(h);
    if (!is_gpu(h) && mig < 0) return INVALID_ARGUMENT;
    int needed = mig < 0
        ? snprintf(text, length, "GPU-0000000%u-1111-2222-3333-444444444444", ((gpu_t *)h)->number)
        : snprintf(text, length, "MIG-0000000%u-%04u-5%03u-8000-444444444444",
                   migs[mig].gpu->number, migs[mig].gi->id, migs[mig].ci->id);
    return needed < (int)length ? OK : INSUFFICIENT_SIZE;
}
int nvmlDeviceGetName(void *h, char *text, unsigned length) {
    ENTER();
    int mig = mig_of(h);
    if (!is_gpu(h) && mig < 0) return INVALID_ARGUMENT;
    snprintf(text, length, "NVIDIA A100-SXM4-40GB%s%s", mig < 0 ? "" : " ",
             mig < 0 ? "" : PROFILES[migs[mig].gi->profile].name);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *h, memory_t *memory) {
    ENTER();
    if (!is_gpu(h)) return INVALID_ARGUMENT;
    memory->total = 40536ull << 20; memory->used = 512ull << 20;
    memory->free = memory->total - memory->used;
    return OK;
}

/* --- mode -------------------------------------------------------------------------------- */
int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    ENTER();
    if (!is_gpu(h) || !current || !pending) return INVALID_ARGUMENT;
    *current = *pending = ((gpu_t *)h)->mode;
    return OK;
}
int nvmlDeviceSetMigMode(void *h, unsigned mode, unsigned *status) {
    ENTER();
    if (!is_gpu(h) || mode > 1 || !status) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    gpu_t *g = h;
    if (event_set.magic) { *status = IN_USE; return OK; } /* a client of ours */
    for (int i = 0; i < GI_MAX; i++) if (g->gi[i].used) { *status = IN_USE; return OK; }
    g->mode = mode;
    *status = OK;
    return OK;
}

/* --- profiles ---------------------------------------------------------------------------- */
static int profile_info(void *h, unsigned index, profile_v2_t *info) {
    if (!is_gpu(h) || !info) return INVALID_ARGUMENT;
    if (info->version != 0x02000098) return VERSION_MISMATCH;
    if (index >= INDEX_END) return INVALID_ARGUMENT;
    for (int i = 0; i < PROFILE_COUNT; i++) {
        if (PROFILES[i].index != index) continue;
        info->id = PROFILES[i].id;
        info->isP2pSupported = 0;
        info->sliceCount = PROFILES[i].slices;
        info->instanceCount = count_of((unsigned)i);
        info->multiprocessorCount = PROFILES[i].sm;
        info->copyEngineCount = PROFILES[i].engines[0];
        info->decoderCount = PROFILES[i].engines[1];
        info->encoderCount = PROFILES[i].engines[2];
        info->jpegCount = PROFILES[i].engines[3];
        info->ofaCount = PROFILES[i].engines[4];
        info->memorySizeMB = PROFILES[i].mib;
        strcpy(info->name, PROFILES[i].name);
        return OK;
    }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetGpuInstanceProfileInfoV(void *h, unsigned index, profile_v2_t *info) {
    ENTER();
    return profile_info(h, index, info);
}
int nvmlDeviceGetGpuInstanceProfileInfo(void *h, unsigned index, profile_v1_t *info) {
    ENTER();
    profile_v2_t full = {.version = 0x02000098};
    int refused = profile_info(h, index, &full);
    if (refused || !info) return refused ? refused : INVALID_ARGUMENT;
    *info = (profile_v1_t){full.id, 0, full.sliceCount, full.instanceCount,
                           full.multiprocessorCount, full.copyEngineCount, full.decoderCount,
                           full.encoderCount, full.jpegCount, full.ofaCount, full.memorySizeMB};
    return OK;
}
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(
    void *h, unsigned id, placement_t *places, unsigned *count) {
    ENTER();
    int p = by_id(id);
    if (!is_gpu(h) || p < 0 || !count) return INVALID_ARGUMENT;
    if (places) {
        if (*count < PROFILES[p].places) return INSUFFICIENT_SIZE;
        for (unsigned i = 0; i < PROFILES[p].places; i++)
            places[i] = (placement_t){PROFILES[p].starts[i], PROFILES[p].size};
    }
    *count = PROFILES[p].places;
    return OK;
}
int nvmlDeviceGetGpuInstanceRemainingCapacity(void *h, unsigned id, unsigned *count) {
    ENTER();
    int p = by_id(id);
    if (!is_gpu(h) || p < 0 || !count) return INVALID_ARGUMENT;
    unsigned left = PROFILES[p].max - exist(h, (unsigned)p), free = 0;
    for (unsigned i = 0; i < PROFILES[p].places; i++)
        free += (unsigned)is_free(h, PROFILES[p].starts[i], PROFILES[p].size);
    *count = left < free ? left : free;
    return OK;
}

/* --- GPU instances ----------------------------------------------------------------------- */
static int make_gi(gpu_t *g, int p, unsigned start, void **made) {
    if (exist(g, (unsigned)p) >= PROFILES[p].max) return INSUFFICIENT_RESOURCES;
    if (!is_free(g, start, PROFILES[p].size)) return INSUFFICIENT_RESOURCES;
    for (int i = 0; i < GI_MAX; i++) {
        if (g->gi[i].used) continue;
        unsigned parts = 8 / PROFILES[p].size;
        memset(&g->gi[i], 0, sizeof g->gi[i]);
        g->gi[i].magic = GI_MAGIC;
        g->gi[i].used = 1;
        g->gi[i].id = parts - 1 + start / PROFILES[p].size;
        g->gi[i].profile = (unsigned)p;
        g->gi[i].start = start;
        *made = &g->gi[i];
        return OK;
    }
    return INSUFFICIENT_RESOURCES;
}
int nvmlDeviceCreateGpuInstanceWithPlacement(
    void *h, unsigned id, const placement_t *at, void **made) {
    ENTER();
    int p = by_id(id);
    /* By value, {start, size} would arrive as an address of start | size << 32. */
    if (!is_gpu(h) || p < 0 || !made || (uintptr_t)at < (1ull << 36)) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    if (!((gpu_t *)h)->mode) return NOT_SUPPORTED;
    int known = 0;
    for (unsigned i = 0; i < PROFILES[p].places; i++)
        known |= PROFILES[p].starts[i] == at->start && PROFILES[p].size == at->size;
    return known ? make_gi(h, p, at->start, made) : INVALID_ARGUMENT;
}
int nvmlDeviceCreateGpuInstance(void *h, unsigned id, void **made) {
    ENTER();
    int p = by_id(id);
    if (!is_gpu(h) || p < 0 || !made) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    if (!((gpu_t *)h)->mode) return NOT_SUPPORTED;
    for (int i = (int)PROFILES[p].places - 1; i >= 0; i--)
        if (is_free(h, PROFILES[p].starts[i], PROFILES[p].size))
            return make_gi(h, p, PROFILES[p].starts[i], made);
    return INSUFFICIENT_RESOURCES;
}
int nvmlGpuInstanceDestroy(void *h) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi)) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    if (in_own_way()) return IN_USE;
    for (int c = 0; c < CI_MAX; c++) if (gi->ci[c].used) return IN_USE;
    gi->used = 0;
    return OK;
}
int nvmlDeviceGetGpuInstances(void *h, unsigned id, void **handles, unsigned *count) {
    ENTER();
    int p = by_id(id);
    if (!is_gpu(h) || p < 0 || !handles || !count) return INVALID_ARGUMENT;
    gpu_t *g = h;
    if (!g->mode) return NOT_SUPPORTED;
    unsigned n = 0;
    /* The array must hold as many as the profile allows: it is written to its end. */
    if (*count < count_of((unsigned)p)) abort();
    for (unsigned i = 0; i < count_of((unsigned)p); i++) handles[i] = NULL;
    for (int i = 0; i < GI_MAX; i++)
        if (g->gi[i].used && g->gi[i].profile == (unsigned)p) handles[n++] = &g->gi[i];
    *count = n;
    return OK;
}
int nvmlDeviceGetGpuInstanceById(void *h, unsigned id, void **handle) {
    ENTER();
    if (!is_gpu(h) || !handle) return INVALID_ARGUMENT;
    gpu_t *g = h;
    for (int i = 0; i < GI_MAX; i++)
        if (g->gi[i].used && g->gi[i].id == id) { *handle = &g->gi[i]; return OK; }
    return NOT_FOUND;
}
int nvmlGpuInstanceGetInfo(void *h, gi_info_t *info) {
    ENTER();
    gi_t *gi = h;
    gpu_t *g = gpu_of(gi);
    if (!g || !info) return INVALID_ARGUMENT;
    *info = (gi_info_t){g, gi->id, PROFILES[gi->profile].id,
                        {gi->start, PROFILES[gi->profile].size}};
    return OK;
}

/* --- compute instances ------------------------------------------------------------------- */
static const unsigned CI_SLICES[] = {1, 2, 3, 4, 7, 8, 6, 1, 7};
static int ci_max(const gi_t *gi, unsigned index) {
    unsigned whole = PROFILES[gi->profile].slices, c = CI_SLICES[index];
    if (PROFILES[gi->profile].index == 9) return index == 7; /* double memory: CI profile 7 alone */
    if (index > 4 || c > whole || (c < whole && 2 * c > whole + 1)) return 0;
    return (int)(whole / c);
}
int nvmlGpuInstanceGetComputeInstanceProfileInfoV(
    void *h, unsigned index, unsigned engine, ci_profile_v2_t *info) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi) || !info || engine != 0 || index >= 9) return INVALID_ARGUMENT;
    if (info->version != 0x02000088) return VERSION_MISMATCH;
    if (!ci_max(gi, index)) return NOT_SUPPORTED;
    info->id = index;
    info->sliceCount = CI_SLICES[index];
    info->instanceCount = (unsigned)ci_max(gi, index);
    info->multiprocessorCount = 14 * CI_SLICES[index];
    snprintf(info->name, sizeof info->name, "MIG %uc", CI_SLICES[index]);
    return OK;
}
int nvmlGpuInstanceGetComputeInstanceProfileInfo(
    void *h, unsigned index, unsigned engine, ci_profile_v1_t *info) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi) || !info || engine != 0 || index >= 9) return INVALID_ARGUMENT;
    if (!ci_max(gi, index)) return NOT_SUPPORTED;
    *info = (ci_profile_v1_t){index, CI_SLICES[index], (unsigned)ci_max(gi, index),
                              14 * CI_SLICES[index], 0, 0, 0, 0, 0};
    return OK;
}
int nvmlGpuInstanceCreateComputeInstance(void *h, unsigned id, void **made) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi) || !made || id >= 9) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    if (!ci_max(gi, id)) return NOT_SUPPORTED;
    unsigned used = 0;
    for (int c = 0; c < CI_MAX; c++) if (gi->ci[c].used) used += CI_SLICES[gi->ci[c].profile];
    if (used + CI_SLICES[id] > PROFILES[gi->profile].slices) return INSUFFICIENT_RESOURCES;
    for (unsigned c = 0; c < CI_MAX; c++) {
        if (gi->ci[c].used) continue;
        gi->ci[c] = (ci_t){CI_MAGIC, 1, c, id, used};
        *made = &gi->ci[c];
        return OK;
    }
    return INSUFFICIENT_RESOURCES;
}
int nvmlComputeInstanceDestroy(void *h) {
    ENTER();
    if (!gi_of(h)) return INVALID_ARGUMENT;
    if (!may_change()) return NO_PERMISSION;
    if (in_own_way()) return IN_USE;
    ((ci_t *)h)->used = 0;
    return OK;
}
int nvmlGpuInstanceGetComputeInstances(void *h, unsigned id, void **handles, unsigned *count) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi) || id >= 9 || !handles || !count) return INVALID_ARGUMENT;
    unsigned n = 0;
    for (int i = 0; i < ci_max(gi, id); i++) handles[i] = NULL;
    for (int c = 0; c < CI_MAX; c++)
        if (gi->ci[c].used && gi->ci[c].profile == id) handles[n++] = &gi->ci[c];
    *count = n;
    return OK;
}
int nvmlGpuInstanceGetComputeInstanceById(void *h, unsigned id, void **handle) {
    ENTER();
    gi_t *gi = h;
    if (!gpu_of(gi) || !handle) return INVALID_ARGUMENT;
    if (id >= CI_MAX || !gi->ci[id].used) return NOT_FOUND;
    *handle = &gi->ci[id];
    return OK;
}
int nvmlComputeInstanceGetInfo_v2(void *h, ci_info_t *info) {
    ENTER();
    ci_t *ci = h;
    gi_t *gi = gi_of(ci);
    if (!gi || !info) return INVALID_ARGUMENT;
    *info = (ci_info_t){gpu_of(gi), gi, ci->id, ci->profile, {ci->start, CI_SLICES[ci->profile]}};
    return OK;
}

/* --- MIG devices: one for each compute instance, by an index that has holes ------------------ */
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *count) {
    ENTER();
    if (!is_gpu(h) || !count) return INVALID_ARGUMENT;
    *count = ((gpu_t *)h)->mode ? GI_MAX : 0;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned index, void **handle) {
    ENTER();
    if (!is_gpu(h) || index >= GI_MAX || !handle) return INVALID_ARGUMENT;
    gpu_t *g = h;
    gi_t *gi = &g->gi[index];
    if (!gi->used) return NOT_FOUND;
    for (int c = 0; c < CI_MAX; c++) {
        if (!gi->ci[c].used) continue;
        size_t slot = (g->number * GI_MAX + index) * CI_MAX + (size_t)c;
        migs[slot].gpu = g; migs[slot].gi = gi; migs[slot].ci = &gi->ci[c];
        *handle = &migs[slot];
        has_looked = 1;
        return OK;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetGpuInstanceId(void *h, unsigned *id) {
    ENTER();
    int mig = mig_of(h);
    if (mig < 0 || !id) return INVALID_ARGUMENT;
    *id = migs[mig].gi->id;
    return OK;
}
int nvmlDeviceGetComputeInstanceId(void *h, unsigned *id) {
    ENTER();
    int mig = mig_of(h);
    if (mig < 0 || !id) return INVALID_ARGUMENT;
    *id = migs[mig].ci->id;
    return OK;
}
int nvmlDeviceGetAttributes_v2(void *h, attributes_t *has) {
    ENTER();
    int mig = mig_of(h);
    if (mig < 0 || !has) return INVALID_ARGUMENT;
    unsigned p = migs[mig].gi->profile, c = CI_SLICES[migs[mig].ci->profile];
    *has = (attributes_t){PROFILES[p].slices == c ? PROFILES[p].sm : 14 * c, 0, 0, 0, 0, 0,
                          PROFILES[p].slices, c, PROFILES[p].mib};
    return OK;
}

/* --- events ------------------------------------------------------------------------------ */
static long size_of_events(void) {
    struct stat seen;
    const char *path = getenv("NVML_STAND_IN_EVENTS");
    return path && !stat(path, &seen) ? (long)seen.st_size : 0;
}
int nvmlEventSetCreate(void **set) {
    ENTER();
    if (!set) return INVALID_ARGUMENT;
    if (event_set.magic) abort(); /* the one before was not freed */
    event_set = (event_set_t){SET_MAGIC, {0, 0}, size_of_events()};
    *set = &event_set;
    return OK;
}
int nvmlEventSetFree(void *set) {
    ENTER();
    if (set != &event_set || !event_set.magic) return INVALID_ARGUMENT;
    event_set.magic = 0;
    return OK;
}
int nvmlDeviceGetSupportedEventTypes(void *h, unsigned long long *types) {
    ENTER();
    if (!is_gpu(h) || !types) return INVALID_ARGUMENT;
    *types = XID | 1;
    return OK;
}
int nvmlDeviceRegisterEvents(void *h, unsigned long long types, void *set) {
    ENTER();
    if (!is_gpu(h) || set != &event_set || !event_set.magic) return INVALID_ARGUMENT;
    if (types & ~(unsigned long long)(XID | 1)) return NOT_SUPPORTED;
    event_set.types[((gpu_t *)h)->number] = types;
    return OK;
}
static int next_event(event_t *event) {
    unsigned long long xid;
    unsigned number, gi, ci;
    const char *path = getenv("NVML_STAND_IN_EVENTS");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    int found = !fseek(file, event_set.read_to, SEEK_SET)
        && fscanf(file, "%u %llu %u %u\n", &number, &xid, &gi, &ci) == 4;
    if (found) event_set.read_to = ftell(file);
    fclose(file);
    if (!found || !event_set.types[number]) return 0;
    *event = (event_t){&S->gpu[number], XID, xid, gi, ci};
    return 1;
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout_ms) {
    ENTER();
    if (set != &event_set || !event) return INVALID_ARGUMENT;
    for (unsigned waited_ms = 0;; waited_ms += 10) {
        if (inits <= 0 || !event_set.magic) abort(); /* taken away under the one who waits */
        if (next_event(event)) return OK;
        if (waited_ms >= timeout_ms) return TIMEOUT;
        usleep(10000);
    }
}
