// The part of the CUDA driver API (libcuda.so.1) and of the CUDA runtime API that gpuassay, CuPy, Numba and cuda-core
// call, over memory of the host and the machine of machine.h. What is not here says its name and is "not supported".
//
// Asynchronous as far as can be: what a stream is given runs when somebody waits for it, and not before, so that a
// missing synchronisation shows. Blocking streams and the null stream share one order; each non-blocking stream has its
// own. Environment: EMULATOR_HOME (translated kernels), and what __init__.py says.
#include "machine.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <deque>
#include <dlfcn.h>
#include <elf.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

std::recursive_mutex one_at_a_time;
#define LOCK std::lock_guard<std::recursive_mutex> lock(one_at_a_time)

double number(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text ? atof(text) : otherwise;
}
std::string text(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}
void uuid(int of, char *bytes) {  // with a zero byte, as one in sixteen has
    for (int i = 0; i < 16; ++i) bytes[i] = i == 3 ? 0 : 0x10 + i + of;
}
// Which of the machine's devices CUDA's ordinals are: what CUDA_VISIBLE_DEVICES leaves, by index or by UUID.
std::vector<int> visible_devices() {
    std::vector<int> found;
    const int all = (int)number("EMULATOR_DEVICES", 1);
    std::stringstream names(text("CUDA_VISIBLE_DEVICES"));
    if (!getenv("CUDA_VISIBLE_DEVICES"))
        for (int i = 0; i < all; ++i) found.push_back(i);
    for (std::string name; std::getline(names, name, ',');)
        for (int i = 0; i < all; ++i) {
            char bytes[16], hex[33];
            uuid(i, bytes);
            for (int j = 0; j < 16; ++j) snprintf(hex + 2 * j, 3, "%02x", (u8)bytes[j]);
            std::string digits;
            for (char c : name.rfind("GPU-", 0) == 0 ? name.substr(4) : "")
                if (c != '-') digits += c;
            if (name == std::to_string(i) || (!digits.empty() && digits == std::string(hex).substr(0, digits.size())))
                found.push_back(i);
        }
    return found;
}
const std::vector<int> VISIBLE = visible_devices();
const int DEVICES = (int)VISIBLE.size();
const u32 SMS = (u32)number("EMULATOR_SMS", 2);
const int CAPABILITY = (int)std::lround(10 * number("EMULATOR_CC", 9.0));
const size_t MEMORY_BYTES = (size_t)number("EMULATOR_MIB", 256) << 20;
const std::string FAULT = text("EMULATOR_FAULT");
const u32 SHARED_BYTES = CAPABILITY == 80 ? 166912 : CAPABILITY / 10 == 8 || CAPABILITY == 120 ? 101376 : 232448;
constexpr u32 RESERVED_SHARED_BYTES = 1024, THREADS_PER_SM = 2048, STACK_BYTES = 96 * 1024;
constexpr size_t PAGE_BYTES = 2 << 20;

thread_local int device = 0;
int sticky = 0;  // an error that every later call gets
int pending_error = 0;

// -- fibers ----------------------------------------------------------------------------------------------------------

extern "C" void emulator_switch(void **save, void *to);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
void *scheduler;
Thread *running;
Function running_function;
void **running_parameters;
std::vector<u8 *> free_stacks;

void yield(Thread *thread) { emulator_switch(&thread->stack_pointer, scheduler); }
void first_frame() {
    running_function(running, running_parameters);
    running->ended = true;
    for (;;) yield(running);
}
void resume(Thread &thread, u32 local_bytes) {
    if (!thread.stack) {
        if (free_stacks.empty())
            free_stacks.push_back((u8 *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        thread.stack = free_stacks.back();
        free_stacks.pop_back();
        thread.local = (u8 *)calloc(1, local_bytes + 16);
        void **top = (void **)(thread.stack + STACK_BYTES);
        *--top = nullptr;
        *--top = (void *)first_frame;
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        thread.stack_pointer = top;
    }
    running = &thread;
    emulator_switch(&scheduler, thread.stack_pointer);
    if (!thread.ended) return;
    free_stacks.push_back(thread.stack);
    free(thread.local);
    Block *block = thread.block;
    --block->alive, --block->cluster->alive;
    block->warps[thread.warp].alive &= ~(1u << thread.lane);
    for (Barrier &barrier : block->barrier)  // an ended thread counts as arrived
        if (barrier.arrived && barrier.arrived >= block->alive) barrier.arrived = 0, ++barrier.phase;
    Barrier &barrier = block->cluster->barrier;
    if (barrier.arrived && barrier.arrived >= block->cluster->alive) barrier.arrived = 0, ++barrier.phase;
}

// -- launches --------------------------------------------------------------------------------------------------------

struct Loaded {  // what a CUfunction points to
    const Kernel *kernel;
    u32 most_dynamic_bytes = 49152;
};
struct Grid {
    Loaded *function;
    Launch launch;
    u32 dynamic_bytes;
    std::vector<std::vector<u8>> parameters;
};

Cluster *new_cluster(const Grid &grid, u64 first, u32 blocks, u32 first_sm, u32 shared_bytes) {
    const Launch &launch = grid.launch;
    const u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
    auto *cluster = new Cluster{blocks, blocks * threads};
    for (u32 rank = 0; rank < blocks; ++rank) {
        auto *block = cluster->member[rank] = new Block();
        const u64 i = first + rank;
        const u32 at[3] = {(u32)(i % launch.grid[0]), (u32)(i / launch.grid[0] % launch.grid[1]),
                           (u32)(i / launch.grid[0] / launch.grid[1])};
        std::copy(at, at + 3, block->ctaid);
        block->smid = (first_sm + rank) % SMS;
        block->rank = rank, block->cluster = cluster, block->alive = block->threads = threads;
        block->shared_bytes = shared_bytes;
        block->shared = (u8 *)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
        memset(block->shared, 0xAB, shared_bytes);  // as a GPU's, it holds what was left there
        block->dynamic_offset = shared_bytes - grid.dynamic_bytes;
        block->warps = new Warp[(threads + 31) / 32]();
        block->thread = new Thread[threads]();
        for (u32 j = 0; j < threads; ++j) {
            Thread &thread = block->thread[j];
            thread.block = block, thread.launch = &launch, thread.number = j, thread.yield = yield;
            thread.tid[0] = j % launch.block[0], thread.tid[1] = j / launch.block[0] % launch.block[1],
            thread.tid[2] = j / launch.block[0] / launch.block[1];
            thread.lane = j % 32, thread.warp = j / 32;
            block->warps[j / 32].alive |= 1u << j % 32;
        }
    }
    return cluster;
}
void end_of(Cluster *cluster, std::vector<u32> &load) {
    for (u32 rank = 0; rank < cluster->blocks; ++rank) {
        Block *block = cluster->member[rank];
        --load[block->smid];
        free(block->shared);
        delete[] block->warps;
        delete[] block->thread;
        delete block;
    }
    delete cluster;
}
// All blocks that find room run at once, thread after thread.
int run(const Grid &grid) {
    const Kernel &kernel = *grid.function->kernel;
    const Launch &launch = grid.launch;
    const u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
    const u32 in_cluster = launch.cluster ? launch.cluster : std::max(1u, kernel.cluster);
    const u32 alignment = 1024,
              shared_bytes = (kernel.static_shared_bytes + alignment - 1) / alignment * alignment + grid.dynamic_bytes;
    const u64 blocks = (u64)launch.grid[0] * launch.grid[1] * launch.grid[2];
    const u32 per_sm =
        std::max(1u, std::min({32u, THREADS_PER_SM / threads,
                               (SHARED_BYTES + RESERVED_SHARED_BYTES) / (shared_bytes + RESERVED_SHARED_BYTES)}));
    std::vector<void *> parameters;
    for (auto &parameter : grid.parameters) parameters.push_back((void *)parameter.data());
    running_function = kernel.function, running_parameters = parameters.data();
    std::vector<Cluster *> resident;
    std::vector<u32> load(SMS, 0);
    u64 next = 0;
    while (next < blocks || !resident.empty()) {
        while (next < blocks && (resident.size() + 1) * in_cluster <= std::max(per_sm * SMS, in_cluster)) {
            const u32 sm = std::min_element(load.begin(), load.end()) - load.begin();
            for (u32 rank = 0; rank < in_cluster; ++rank) ++load[(sm + rank) % SMS];
            resident.push_back(new_cluster(grid, next, in_cluster, sm, shared_bytes));
            next += in_cluster;
        }
        bool moved = false;
        for (Cluster *cluster : resident)
            for (u32 rank = 0; rank < cluster->blocks; ++rank)
                for (u32 j = 0; j < cluster->member[rank]->threads; ++j) {
                    Thread &thread = cluster->member[rank]->thread[j];
                    if (thread.ended || (thread.waits_for && *thread.waits_for == thread.waits_while)) continue;
                    resume(thread, kernel.local_bytes);
                    moved = true;
                }
        if (!moved) broken("deadlock");
        resident.erase(
            std::remove_if(resident.begin(), resident.end(),
                           [&](Cluster *cluster) { return cluster->alive == 0 && (end_of(cluster, load), true); }),
            resident.end());
    }
    return 0;
}

// -- streams ---------------------------------------------------------------------------------------------------------

typedef std::function<int()> Work;
struct Stream {
    int device;
    bool own_order, capturing = false;
    std::deque<Work> waiting;
    std::vector<Work> captured;
};
struct Event {
    Stream *stream = nullptr;
    bool recorded = false, done = false;
    u64 ns = 0;
};
std::deque<Work> common;  // of the null stream and the blocking ones
std::vector<Stream *> streams;

Stream *stream_of(const void *handle) {
    return (u64)handle > 16 ? (Stream *)handle : nullptr;
}  // small: the null stream
std::deque<Work> &order_of(Stream *stream) { return stream && stream->own_order ? stream->waiting : common; }
int drain(std::deque<Work> &order) {
    while (!order.empty()) {
        Work work = std::move(order.front());
        order.pop_front();
        if (const int error = sticky ? sticky : work()) pending_error = error;
    }
    const int error = sticky ? sticky : pending_error;
    pending_error = 0;
    return error;
}
int synchronize(const void *handle) {
    LOCK;
    Stream *stream = stream_of(handle);
    return stream && stream->capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : drain(order_of(stream));
}
int synchronize_all() {
    LOCK;
    int error = 0;
    for (Stream *stream : streams) error = std::max(error, drain(stream->waiting));
    return std::max(error, drain(common));
}
int submit(const void *handle, Work work) {
    LOCK;
    if (sticky) return sticky;
    Stream *stream = stream_of(handle);
    if (stream && stream->capturing) stream->captured.push_back(std::move(work));
    else order_of(stream).push_back(std::move(work));
    return 0;
}
int new_stream(void *to, u32 flags) {
    LOCK;
    streams.push_back(new Stream{device, (flags & 1) != 0});
    *(Stream **)to = streams.back();
    return 0;
}
int record(void *handle, const void *stream) {
    auto *event = (Event *)handle;
    event->stream = stream_of(stream), event->recorded = true, event->done = false;
    return submit(stream, [event] { return event->ns = now_ns(), event->done = true, 0; });
}
int wait_for(void *handle) {
    auto *event = (Event *)handle;
    return event->recorded && !event->done ? synchronize(event->stream) : sticky;
}
int elapsed(float *ms, void *from, void *to) {
    auto *start = (Event *)from, *stop = (Event *)to;
    if (!start->recorded || !stop->recorded) return CUDA_ERROR_INVALID_HANDLE;
    if (!start->done || !stop->done) return CUDA_ERROR_NOT_READY;
    *ms = (s64)(stop->ns - start->ns) * 1e-6f;
    return 0;
}

// -- memory ----------------------------------------------------------------------------------------------------------

struct Allocation {
    size_t bytes;
    int device;
};
std::map<u64, Allocation> allocations;  // by address
std::map<u64, size_t> pinned;
size_t used_bytes[16];
size_t next_page[16];  // of the device's physical memory

template <class Map>
typename Map::const_iterator around(const Map &map, u64 address) {
    auto found = map.upper_bound(address);
    return found == map.begin() ? map.end() : --found;
}
const Allocation *allocation(u64 address, u64 *start = nullptr) {
    auto found = around(allocations, address);
    if (found == allocations.end() || address >= found->first + found->second.bytes) return nullptr;
    if (start) *start = found->first;
    return &found->second;
}
bool is_pinned(u64 address) {
    auto found = around(pinned, address);
    return found != pinned.end() && address < found->first + found->second;
}
// Which physical page answers: with a fault, another page's.
size_t page_that_answers(size_t page) {
    const size_t pages = MEMORY_BYTES / PAGE_BYTES;
    if (FAULT == "memory wraps") return page % (pages / 2);
    if (FAULT == "address line") return page & ~(size_t)8;
    return page;
}
// With a fault, memory is mapped page by page from a file, so that two addresses may be one place.
u64 faulty_memory(size_t bytes) {
    static const int file = memfd_create("emulator", 0);
    if (ftruncate(file, MEMORY_BYTES)) return 0;
    const u64 start =
        ((u64)mmap(nullptr, bytes + PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) +
         PAGE_BYTES - 1) /
        PAGE_BYTES * PAGE_BYTES;
    for (size_t at = 0; at < bytes; at += PAGE_BYTES) {
        const size_t page = page_that_answers(next_page[device]++ % (MEMORY_BYTES / PAGE_BYTES));
        mmap((void *)(start + at), PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, page * PAGE_BYTES);
    }
    return start;
}
int allocate(void *to, size_t bytes) {
    LOCK;
    if (sticky) return sticky;
    const bool faulty = FAULT == "memory wraps" || FAULT == "address line";
    const size_t unit = faulty ? PAGE_BYTES : 512, whole = (bytes + unit - 1) / unit * unit;
    *(u64 *)to = 0;
    if (bytes == 0) return 0;
    if (used_bytes[device] + whole > MEMORY_BYTES) return CUDA_ERROR_OUT_OF_MEMORY;
    const u64 start =
        faulty ? faulty_memory(whole)
               : (u64)mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == 0 || start == (u64)MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    allocations[start] = {whole, device};
    used_bytes[device] += whole;
    *(u64 *)to = start;
    return 0;
}
int release(u64 address) {
    LOCK;
    if (address == 0) return sticky;
    auto found = allocations.find(address);
    if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
    used_bytes[found->second.device] -= found->second.bytes;
    munmap((void *)address, found->second.bytes);
    allocations.erase(found);
    return sticky;
}
int free_when_done(u64 address) {
    const int error = synchronize_all();
    return std::max(error, release(address));
}
int copy_async(u64 to, u64 from, size_t bytes, const void *stream) {
    if (is_pinned(from) || allocation(from))
        return submit(stream, [=] { return memmove((void *)to, (void *)from, bytes), 0; });
    auto staged = std::make_shared<std::vector<u8>>((u8 *)from, (u8 *)from + bytes);  // pageable memory is staged
    return submit(stream, [=] { return memcpy((void *)to, staged->data(), bytes), 0; });
}
int copy(u64 to, u64 from, size_t bytes) {
    const int error = submit(nullptr, [=] { return memmove((void *)to, (void *)from, bytes), 0; });
    return error ? error : synchronize(nullptr);
}
template <class T>
int fill(u64 to, T value, size_t count, const void *stream) {
    return submit(stream, [=] { return std::fill_n((T *)to, count, value), 0; });
}

// -- modules ---------------------------------------------------------------------------------------------------------

struct Module {
    std::map<std::string, Loaded> functions;
};
size_t image_bytes(const u8 *image) {
    if (memcmp(image, ELFMAG, SELFMAG)) return strlen((const char *)image);
    auto *header = (const Elf64_Ehdr *)image;
    size_t end = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    end = std::max(end, (size_t)(header->e_phoff + (size_t)header->e_phnum * header->e_phentsize));
    for (int i = 0; i < header->e_shnum; ++i) {
        auto *section = (const Elf64_Shdr *)(image + header->e_shoff + i * header->e_shentsize);
        if (section->sh_type != SHT_NOBITS) end = std::max(end, (size_t)(section->sh_offset + section->sh_size));
    }
    return end;
}
// FNV-1a: what a cubin is called whose PTX inside/sitecustomize.py keeps.
std::string name_of(const u8 *image) {
    const size_t bytes = image_bytes(image);
    u64 hash = 14695981039346656037ull;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ image[i]) * 1099511628211ull;
    char name[40];
    snprintf(name, sizeof name, "%016llx-%zu", (unsigned long long)hash, bytes);
    return name;
}
int load_module(void *to, const void *image) {
    LOCK;
    if (sticky) return sticky;
    const std::string stem = text("EMULATOR_HOME") + "/" + name_of((const u8 *)image), library = stem + ".so";
    if (access(library.c_str(), F_OK)) {
        if (access((stem + ".ptx").c_str(), F_OK)) {
            if (!memcmp(image, ELFMAG, SELFMAG))
                return fprintf(stderr, "EMULATOR: a cubin whose PTX is not known: %s\n", stem.c_str()),
                       CUDA_ERROR_NO_BINARY_FOR_GPU;
            FILE *file = fopen((stem + ".ptx").c_str(), "w");
            fputs((const char *)image, file);
            fclose(file);
        }
        const std::string own = stem + "-" + std::to_string(getpid());
        const std::string command = "env -u PYTHONPATH -u LD_LIBRARY_PATH sh -c '" + text("EMULATOR_PYTHON") +
                                    " -S " EMULATOR_SOURCES "/ptx.py " + stem + ".ptx " + own +
                                    ".cpp && c++ -std=c++17 -O1 -w -I " EMULATOR_SOURCES " -shared -fPIC -o " + own +
                                    ".so " + own + ".cpp && mv " + own + ".so " + library + "'";
        if (system(command.c_str()))
            return fprintf(stderr, "EMULATOR: %s.ptx was not translated\n", stem.c_str()), CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    void *opened = dlopen(library.c_str(), RTLD_NOW);
    if (!opened) return fprintf(stderr, "EMULATOR: %s\n", dlerror()), CUDA_ERROR_NO_BINARY_FOR_GPU;
    auto *module = new Module();
    auto *kernels = (const Kernel *)dlsym(opened, "kernels");
    for (u32 i = 0; i < *(const u32 *)dlsym(opened, "kernel_count"); ++i)
        module->functions[kernels[i].name] = {&kernels[i]};
    *(Module **)to = module;
    return 0;
}
int find_function(void *to, void *module, const char *name) {
    auto &functions = ((Module *)module)->functions;
    auto found = functions.find(name);
    if (found == functions.end()) return CUDA_ERROR_NOT_FOUND;
    *(Loaded **)to = &found->second;
    return 0;
}
// EMULATOR_FAIL=kernel:error, with EMULATOR_FAIL_ONCE=file only until that file exists.
int planted_error(const char *kernel) {
    const std::string plan = text("EMULATOR_FAIL"), marker = text("EMULATOR_FAIL_ONCE");
    const size_t colon = plan.find(':');
    if (colon == std::string::npos || plan.substr(0, colon) != kernel) return 0;
    if (!marker.empty() && !access(marker.c_str(), F_OK)) return 0;
    if (!marker.empty()) fclose(fopen(marker.c_str(), "w"));
    const int error = atoi(plan.c_str() + colon + 1);
    for (int lasting : {214, 700, 702, 710, 714, 715, 716, 719, 999})
        if (error == lasting) sticky = error;
    return error;
}
int launch(void *function, Launch shape, u32 dynamic_bytes, const void *stream, void **parameters, void **extra) {
    auto *loaded = (Loaded *)function;
    const Kernel &kernel = *loaded->kernel;
    const u64 threads = (u64)shape.block[0] * shape.block[1] * shape.block[2];
    const u32 cluster = shape.cluster ? shape.cluster : std::max(1u, kernel.cluster);
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    if (threads == 0 || threads > kernel.most_threads || !shape.grid[0] || !shape.grid[1] || !shape.grid[2])
        return CUDA_ERROR_INVALID_VALUE;
    if (dynamic_bytes > loaded->most_dynamic_bytes || kernel.static_shared_bytes + dynamic_bytes > SHARED_BYTES)
        return CUDA_ERROR_INVALID_VALUE;
    if (cluster > 16 || shape.grid[0] % cluster) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    Grid grid{loaded, shape, dynamic_bytes, {}};
    for (u32 i = 0; i < kernel.parameters; ++i)
        grid.parameters.emplace_back((u8 *)parameters[i], (u8 *)parameters[i] + kernel.parameter_bytes[i]);
    return submit(stream, [grid] {
        const int error = planted_error(grid.function->kernel->name);
        return error ? error : run(grid);
    });
}

// -- the device ------------------------------------------------------------------------------------------------------

int attribute(int which) {  // CUdevice_attribute and cudaDeviceAttr have the same numbers
    switch (which) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 49152;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return SHARED_BYTES;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return SHARED_BYTES + RESERVED_SHARED_BYTES;
        case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 65536;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1980000;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 2619000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 5120;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 4 << 20;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return THREADS_PER_SM;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return SMS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return CAPABILITY / 10;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return CAPABILITY % 10;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 3;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
        case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_ECC_ENABLED: return 1;
        default: return 0;
    }
}
u64 context_of(int of) { return 0x1000 + of; }
bool peers[16][16];

// -- calls that are not here -----------------------------------------------------------------------------------------

int not_here(const char *name) { return fprintf(stderr, "EMULATOR: not here: %s\n", name), CUDA_ERROR_NOT_SUPPORTED; }

}  // namespace

#define DRIVER extern "C" __attribute__((visibility("default"))) CUresult
#define RUNTIME extern "C" __attribute__((visibility("default"))) cudaError_t
#define AS(call) return (CUresult)(call)
#define RT(call) return remembered(call)

// A function that says its name and is not supported: mov rdi, name; mov rax, not_here; jmp rax.
extern "C" __attribute__((visibility("default"))) void *emulator_missing(const char *name) {
    LOCK;
    static u8 *code = nullptr, *end = nullptr;
    if (code == end) {
        code = (u8 *)mmap(nullptr, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        end = code + 65536;
    }
    const u64 of = (u64)strdup(name), to = (u64)not_here;
    u8 *start = code;
    memcpy(start, "\x48\xBF", 2), memcpy(start + 2, &of, 8);
    memcpy(start + 10, "\x48\xB8", 2), memcpy(start + 12, &to, 8);
    memcpy(start + 20, "\xFF\xE0", 2);
    code += 32;
    return start;
}
extern "C" __attribute__((visibility("default"))) const char *emulator_name(const void *image) {
    return strdup(name_of((const u8 *)image).c_str());
}

// -- driver API ------------------------------------------------------------------------------------------------------

DRIVER cuInit(unsigned) {
    Dl_info caller;  // NVRTC looks for more in a driver than is here, and does without one
    const bool nvrtc = dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "nvrtc");
    return nvrtc ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}
DRIVER cuDriverGetVersion(int *version) { return *version = CUDA_VERSION / 1000 * 1000, CUDA_SUCCESS; }
DRIVER cuDeviceGet(CUdevice *to, int ordinal) {
    return ordinal < 0 || ordinal >= DEVICES ? CUDA_ERROR_INVALID_DEVICE : (*to = ordinal, CUDA_SUCCESS);
}
DRIVER cuDeviceGetCount(int *count) { return *count = DEVICES, DEVICES ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
DRIVER cuDeviceGetName(char *name, int bytes, CUdevice) {
    return snprintf(name, bytes, "NVIDIA EMULATED GPU"), CUDA_SUCCESS;
}
DRIVER cuDeviceGetUuid(CUuuid *to, CUdevice of) { return uuid(VISIBLE[of], to->bytes), CUDA_SUCCESS; }
DRIVER cuDeviceTotalMem(size_t *bytes, CUdevice) { return *bytes = MEMORY_BYTES, CUDA_SUCCESS; }
DRIVER cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice) {
    return *value = attribute(which), CUDA_SUCCESS;
}
DRIVER cuDeviceGetPCIBusId(char *to, int bytes, CUdevice of) {
    return snprintf(to, bytes, "0000:%02X:00.0", VISIBLE[of] + 1), CUDA_SUCCESS;
}
DRIVER cuDeviceCanAccessPeer(int *can, CUdevice one, CUdevice other) { return *can = one != other, CUDA_SUCCESS; }
DRIVER cuDevicePrimaryCtxRetain(CUcontext *to, CUdevice of) { return *to = (CUcontext)context_of(of), CUDA_SUCCESS; }
DRIVER cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
DRIVER cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *active) {
    return *flags = 0, *active = 1, CUDA_SUCCESS;
}
DRIVER cuCtxGetCurrent(CUcontext *to) { return *to = (CUcontext)context_of(device), CUDA_SUCCESS; }
DRIVER cuCtxSetCurrent(CUcontext context) {
    return context ? (device = (int)((u64)context - context_of(0)), CUDA_SUCCESS) : CUDA_SUCCESS;
}
DRIVER cuCtxPushCurrent(CUcontext context) { return cuCtxSetCurrent(context); }
DRIVER cuCtxPopCurrent(CUcontext *to) { return to ? cuCtxGetCurrent(to) : CUDA_SUCCESS; }
DRIVER cuCtxGetDevice(CUdevice *to) { return *to = device, CUDA_SUCCESS; }
DRIVER cuCtxSynchronize() { AS(synchronize_all()); }
DRIVER cuMemGetInfo(size_t *free_bytes, size_t *total) {
    return *total = MEMORY_BYTES, *free_bytes = MEMORY_BYTES - used_bytes[device], CUDA_SUCCESS;
}
DRIVER cuMemAlloc(CUdeviceptr *to, size_t bytes) { AS(allocate(to, bytes)); }
DRIVER cuMemFree(CUdeviceptr address) { AS(free_when_done(address)); }
DRIVER cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) { AS(copy((u64)to, from, bytes)); }
DRIVER cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) { AS(copy(to, (u64)from, bytes)); }
DRIVER cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    AS(copy_async((u64)to, from, bytes, stream));
}
DRIVER cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    AS(copy_async(to, (u64)from, bytes, stream));
}
DRIVER cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) { AS(fill<u32>(to, value, count, nullptr)); }
DRIVER cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) { AS(fill<u8>(to, value, count, nullptr)); }
DRIVER cuMemGetAddressRange(CUdeviceptr *start, size_t *bytes, CUdeviceptr address) {
    u64 found;
    const Allocation *of = allocation(address, &found);
    if (!of) return CUDA_ERROR_NOT_FOUND;
    if (start) *start = found;
    if (bytes) *bytes = of->bytes;
    return CUDA_SUCCESS;
}
DRIVER cuPointerGetAttribute(void *to, CUpointer_attribute which, CUdeviceptr address) {
    const Allocation *of = allocation(address);
    if (!of) return CUDA_ERROR_INVALID_VALUE;
    switch (which) {
        case CU_POINTER_ATTRIBUTE_CONTEXT: return *(u64 *)to = context_of(of->device), CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return *(u32 *)to = CU_MEMORYTYPE_DEVICE, CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: return *(u64 *)to = address, CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return *(int *)to = of->device, CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: return *(int *)to = 0, CUDA_SUCCESS;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
}
DRIVER cuModuleLoadData(CUmodule *to, const void *image) { AS(load_module(to, image)); }
DRIVER cuModuleLoadDataEx(CUmodule *to, const void *image, unsigned, CUjit_option *, void **) {
    AS(load_module(to, image));
}
DRIVER cuModuleLoad(CUmodule *to, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::vector<u8> image;
    for (int byte; (byte = fgetc(file)) != EOF;) image.push_back(byte);
    fclose(file);
    image.push_back(0);
    AS(load_module(to, image.data()));
}
DRIVER cuModuleUnload(CUmodule module) { return synchronize_all(), delete (Module *)module, CUDA_SUCCESS; }
DRIVER cuModuleGetFunction(CUfunction *to, CUmodule module, const char *name) { AS(find_function(to, module, name)); }
DRIVER cuModuleGetGlobal(CUdeviceptr *, size_t *, CUmodule, const char *) { return CUDA_ERROR_NOT_FOUND; }
DRIVER cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) { return *mode = CU_MODULE_LAZY_LOADING, CUDA_SUCCESS; }
DRIVER cuLibraryLoadData(CUlibrary *to, const void *image, CUjit_option *, void **, unsigned, CUlibraryOption *,
                         void **, unsigned) {
    AS(load_module(to, image));
}
DRIVER cuLibraryUnload(CUlibrary) { return CUDA_SUCCESS; }
DRIVER cuLibraryGetKernel(CUkernel *to, CUlibrary library, const char *name) { AS(find_function(to, library, name)); }
DRIVER cuLibraryGetModule(CUmodule *to, CUlibrary library) { return *to = (CUmodule)library, CUDA_SUCCESS; }
DRIVER cuKernelGetFunction(CUfunction *to, CUkernel kernel) { return *to = (CUfunction)kernel, CUDA_SUCCESS; }
DRIVER cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction function) {
    auto *of = (Loaded *)function;
    switch (which) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return *value = of->kernel->most_threads, CUDA_SUCCESS;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return *value = of->kernel->static_shared_bytes, CUDA_SUCCESS;
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: return *value = of->kernel->local_bytes, CUDA_SUCCESS;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return *value = of->most_dynamic_bytes, CUDA_SUCCESS;
        default: return *value = 0, CUDA_SUCCESS;
    }
}
DRIVER cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel kernel, CUdevice) {
    return cuFuncGetAttribute(value, which, (CUfunction)kernel);
}
DRIVER cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    auto *of = (Loaded *)function;
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || (u32)value + of->kernel->static_shared_bytes > SHARED_BYTES) return CUDA_ERROR_INVALID_VALUE;
    return of->most_dynamic_bytes = value, CUDA_SUCCESS;
}
DRIVER cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
DRIVER cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned dynamic_bytes, CUstream stream, void **parameters, void **extra) {
    AS(launch(function, {{gx, gy, gz}, {bx, by, bz}, 0}, dynamic_bytes, stream, parameters, extra));
}
DRIVER cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
    u32 cluster = 0;
    for (unsigned i = 0; i < config->numAttrs; ++i)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) cluster = config->attrs[i].value.clusterDim.x;
    const Launch shape{{config->gridDimX, config->gridDimY, config->gridDimZ},
                       {config->blockDimX, config->blockDimY, config->blockDimZ},
                       cluster};
    AS(launch(function, shape, config->sharedMemBytes, config->hStream, parameters, extra));
}
DRIVER cuStreamCreate(CUstream *to, unsigned flags) { AS(new_stream(to, flags)); }
DRIVER cuStreamDestroy(CUstream stream) { AS(synchronize(stream)); }
DRIVER cuStreamSynchronize(CUstream stream) { AS(synchronize(stream)); }
DRIVER cuEventCreate(CUevent *to, unsigned) { return *(Event **)to = new Event(), CUDA_SUCCESS; }
DRIVER cuEventRecord(CUevent event, CUstream stream) { AS(record(event, stream)); }
DRIVER cuEventSynchronize(CUevent event) { AS(wait_for(event)); }
DRIVER cuEventQuery(CUevent event) {
    AS(((Event *)event)->recorded && !((Event *)event)->done ? CUDA_ERROR_NOT_READY : sticky);
}
DRIVER cuEventDestroy(CUevent) { return CUDA_SUCCESS; }
DRIVER cuEventElapsedTime(float *ms, CUevent start, CUevent stop) { AS(elapsed(ms, start, stop)); }
DRIVER cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction, int threads, size_t) {
    return *blocks = THREADS_PER_SM / threads, CUDA_SUCCESS;
}
DRIVER cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction, CUoccupancyB2DSize, size_t, int) {
    return *grid = SMS, *block = 256, CUDA_SUCCESS;
}
static const struct {
    int error;
    const char *driver, *runtime, *text;
} ERRORS[] = {
    {100, "CUDA_ERROR_NO_DEVICE", "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {1, "CUDA_ERROR_INVALID_VALUE", "cudaErrorInvalidValue", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "out of memory"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "cudaErrorPeerAccessAlreadyEnabled",
     "peer access is already enabled"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "cudaErrorLaunchFailure", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "cudaErrorNotSupported", "operation not supported"},
    {0, "CUDA_ERROR_UNKNOWN", "cudaErrorUnknown", "unknown error"},
};
static auto &error_entry(int error) {
    auto *entry = ERRORS;
    while (entry->error && entry->error != error) ++entry;
    return *entry;
}
DRIVER cuGetErrorName(CUresult error, const char **to) { return *to = error_entry(error).driver, CUDA_SUCCESS; }
DRIVER cuGetErrorString(CUresult error, const char **to) { return *to = error_entry(error).text, CUDA_SUCCESS; }
#undef cuGetProcAddress
DRIVER cuGetProcAddress_v2(const char *name, void **to, int, cuuint64_t, CUdriverProcAddressQueryResult *status) {
    static void *self = nullptr;
    Dl_info here;
    if (!self && dladdr((void *)emulator_missing, &here)) self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *to = nullptr;
    for (const char *suffix : {"_v4", "_v3", "_v2", ""})
        if (!*to) *to = dlsym(self, (std::string(name) + suffix).c_str());
    if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
    if (!*to) *to = emulator_missing(name);
    return CUDA_SUCCESS;
}
DRIVER cuGetProcAddress(const char *name, void **to, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, to, version, flags, nullptr);
}

// -- runtime API, which CuPy has a copy of its own of: inside/sitecustomize.py leads its functions here -------------

static thread_local int last_error = 0;
static cudaError_t remembered(int error) { return (cudaError_t)(error ? last_error = error : 0); }

RUNTIME cudaGetDeviceCount(int *count) { RT((*count = DEVICES, DEVICES ? 0 : cudaErrorNoDevice)); }
RUNTIME cudaGetDevice(int *to) { return *to = device, cudaSuccess; }
RUNTIME cudaSetDevice(int ordinal) {
    RT(ordinal < 0 || ordinal >= DEVICES ? cudaErrorInvalidDevice : (device = ordinal, 0));
}
RUNTIME cudaDriverGetVersion(int *version) { RT(cuDriverGetVersion(version)); }
RUNTIME cudaRuntimeGetVersion(int *version) { RT(cuDriverGetVersion(version)); }
RUNTIME cudaDeviceGetAttribute(int *value, cudaDeviceAttr which, int) { return *value = attribute(which), cudaSuccess; }
RUNTIME cudaGetDeviceProperties(cudaDeviceProp *to, int of) {
    *to = {};
    cuDeviceGetName(to->name, sizeof to->name, of);
    uuid(VISIBLE[of], to->uuid.bytes);
    to->major = CAPABILITY / 10, to->minor = CAPABILITY % 10, to->multiProcessorCount = SMS,
    to->totalGlobalMem = MEMORY_BYTES;
    to->l2CacheSize = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), to->memoryBusWidth = 5120, to->warpSize = 32;
    to->maxThreadsPerBlock = 1024, to->maxThreadsPerMultiProcessor = THREADS_PER_SM, to->regsPerMultiprocessor = 65536;
    to->sharedMemPerBlock = 49152, to->sharedMemPerBlockOptin = SHARED_BYTES,
    to->sharedMemPerMultiprocessor = SHARED_BYTES + RESERVED_SHARED_BYTES;
    to->asyncEngineCount = 3, to->concurrentKernels = to->cooperativeLaunch = to->ECCEnabled = to->managedMemory =
                                  to->unifiedAddressing = to->canMapHostMemory = 1;
    return cudaSuccess;
}
RUNTIME cudaDeviceGetPCIBusId(char *to, int bytes, int of) { RT(cuDeviceGetPCIBusId(to, bytes, of)); }
RUNTIME cudaDeviceCanAccessPeer(int *can, int one, int other) { RT(cuDeviceCanAccessPeer(can, one, other)); }
RUNTIME cudaDeviceEnablePeerAccess(int peer, unsigned) {
    if (peer == device) RT(cudaErrorInvalidDevice);
    RT(std::exchange(peers[device][peer], true) ? cudaErrorPeerAccessAlreadyEnabled : 0);
}
RUNTIME cudaDeviceSynchronize() { RT(synchronize_all()); }
RUNTIME cudaMalloc(void **to, size_t bytes) { RT(allocate(to, bytes)); }
RUNTIME cudaFree(void *address) { RT(free_when_done((u64)address)); }
RUNTIME cudaMallocAsync(void **to, size_t bytes, cudaStream_t) { RT(allocate(to, bytes)); }
RUNTIME cudaFreeAsync(void *address, cudaStream_t stream) {
    RT(submit(stream, [=] { return release((u64)address); }));
}
RUNTIME cudaHostAlloc(void **to, size_t bytes, unsigned) {
    LOCK;
    *to = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    pinned[(u64)*to] = bytes;
    RT(sticky);
}
RUNTIME cudaFreeHost(void *address) {
    return synchronize_all(), pinned.erase((u64)address), free(address), cudaSuccess;
}
RUNTIME cudaMemGetInfo(size_t *free_bytes, size_t *total) { RT(sticky ? sticky : cuMemGetInfo(free_bytes, total)); }
RUNTIME cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) { RT(copy((u64)to, (u64)from, bytes)); }
RUNTIME cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    RT(copy_async((u64)to, (u64)from, bytes, stream));
}
RUNTIME cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes,
                            cudaStream_t stream) {
    const Allocation *there = allocation((u64)to), *here = allocation((u64)from);
    if (!there || !here || there->device != to_device || here->device != from_device) RT(cudaErrorInvalidValue);
    RT(copy_async((u64)to, (u64)from, bytes, stream));
}
RUNTIME cudaMemset(void *to, int value, size_t bytes) { RT(fill<u8>((u64)to, value, bytes, nullptr)); }
RUNTIME cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    RT(fill<u8>((u64)to, value, bytes, stream));
}
RUNTIME cudaStreamCreate(cudaStream_t *to) { RT(new_stream(to, 0)); }
RUNTIME cudaStreamCreateWithFlags(cudaStream_t *to, unsigned flags) { RT(new_stream(to, flags)); }
RUNTIME cudaStreamCreateWithPriority(cudaStream_t *to, unsigned flags, int) { RT(new_stream(to, flags)); }
RUNTIME cudaStreamDestroy(cudaStream_t stream) { RT(synchronize(stream)); }
RUNTIME cudaStreamSynchronize(cudaStream_t stream) { RT(synchronize(stream)); }
RUNTIME cudaStreamGetFlags(cudaStream_t stream, unsigned *flags) {
    return *flags = stream_of(stream) && stream_of(stream)->own_order, cudaSuccess;
}
RUNTIME cudaStreamGetPriority(cudaStream_t, int *priority) { return *priority = 0, cudaSuccess; }
RUNTIME cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, cudaSuccess; }
RUNTIME cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    RT(submit(stream, [=] { return wait_for(event); }));
}
RUNTIME cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    return *status = stream_of(stream) && stream_of(stream)->capturing ? cudaStreamCaptureStatusActive
                                                                       : cudaStreamCaptureStatusNone,
           cudaSuccess;
}
RUNTIME cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (!stream_of(stream)) RT(cudaErrorStreamCaptureUnsupported);
    return stream_of(stream)->capturing = true, cudaSuccess;
}
RUNTIME cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *to) {
    stream_of(stream)->capturing = false;
    *(std::vector<Work> **)to = new std::vector<Work>(std::exchange(stream_of(stream)->captured, {}));
    return cudaSuccess;
}
RUNTIME cudaGraphInstantiate(cudaGraphExec_t *to, cudaGraph_t graph, unsigned long long) {
    return *(std::vector<Work> **)to = new std::vector<Work>(*(std::vector<Work> *)graph), cudaSuccess;
}
RUNTIME cudaGraphDestroy(cudaGraph_t graph) { return delete (std::vector<Work> *)graph, cudaSuccess; }
RUNTIME cudaGraphExecDestroy(cudaGraphExec_t graph) {
    return synchronize_all(), delete (std::vector<Work> *)graph, cudaSuccess;
}
RUNTIME cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    for (const Work &node : *(std::vector<Work> *)graph)
        if (const int error = submit(stream, node)) RT(error);
    return cudaSuccess;
}
RUNTIME cudaEventCreate(cudaEvent_t *to) { RT(cuEventCreate((CUevent *)to, 0)); }
RUNTIME cudaEventCreateWithFlags(cudaEvent_t *to, unsigned) { RT(cuEventCreate((CUevent *)to, 0)); }
RUNTIME cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
RUNTIME cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { RT(record(event, stream)); }
RUNTIME cudaEventSynchronize(cudaEvent_t event) { RT(wait_for(event)); }
RUNTIME cudaEventQuery(cudaEvent_t event) { RT(cuEventQuery(event)); }
RUNTIME cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop) { RT(elapsed(ms, start, stop)); }
RUNTIME cudaGetLastError() { return (cudaError_t)std::exchange(last_error, 0); }
RUNTIME cudaPeekAtLastError() { return (cudaError_t)last_error; }
extern "C" __attribute__((visibility("default"))) const char *cudaGetErrorName(cudaError_t error) {
    return error_entry(error).runtime;
}
extern "C" __attribute__((visibility("default"))) const char *cudaGetErrorString(cudaError_t error) {
    return error_entry(error).text;
}
RUNTIME cudaPointerGetAttributes(cudaPointerAttributes *to, const void *address) {
    *to = {};
    if (const Allocation *of = allocation((u64)address))
        to->type = cudaMemoryTypeDevice, to->device = of->device, to->devicePointer = (void *)address;
    return cudaSuccess;
}
