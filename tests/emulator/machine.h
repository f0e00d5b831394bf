// What a kernel translated from PTX (ptx.py) runs on: threads as fibers, warps, blocks, clusters, shared memory, and
// the instructions that are more than one line of C++. Semantics are the PTX ISA's, version 9; written from its text,
// and shares no code with the references that the kernels are checked against.
//
// One host thread runs all of it, fiber by fiber, so that no access here needs a lock. A fiber yields at barriers, at
// collective instructions and after atomics in global memory, where a GPU would run other threads too.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <time.h>
#include <type_traits>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef u8 b8;
typedef u16 b16;
typedef u32 b32;
typedef u64 b64;
typedef u16 f16;
typedef float f32;
typedef double f64;
typedef bool pred;

constexpr double SM_CLOCK_GHZ = 1.755;  // NVML says so too

[[noreturn]] static inline void broken(const char *what, u64 value = 0) {
    fprintf(stderr, "EMULATOR: %s (%llx)\n", what, (unsigned long long)value);
    abort();
}
static inline u64 now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static inline u64 globaltimer() { return 1700000000000000000ull + now_ns(); }
static inline u64 clock64() { return (u64)(now_ns() * SM_CLOCK_GHZ); }

// -- threads and those that wait for each other ----------------------------------------------------------------------

struct Barrier {
    u32 arrived = 0, phase = 0;
};
struct Thread;
struct Warp {
    u32 alive;  // a bit per lane
    Barrier barrier, collective;
    u64 slot[32];
    void *arguments[32];
};
struct Warpgroup {
    Barrier collective;
    void *arguments[128];
};
struct Cluster;
struct Block {
    u32 ctaid[3], smid, rank, alive, threads, shared_bytes, dynamic_offset;
    u8 *shared;
    Cluster *cluster;
    Barrier barrier[16];
    bool reduction[16][2];  // of bar.red, by phase
    Warp *warps;
    Warpgroup warpgroups[8];
    Thread *thread;
};
struct Cluster {
    u32 blocks, alive;  // alive: threads
    Block *member[16];
    Barrier barrier;
};
struct Launch {
    u32 grid[3], block[3], cluster;
};
struct Thread {
    void *stack_pointer;
    u8 *stack, *local;
    Block *block;
    const Launch *launch;
    u32 tid[3], number, lane, warp, cluster_phase;
    bool ended;
    const u32 *waits_for;  // runs again when this is no longer `waits_while`
    u32 waits_while;
    void (*yield)(Thread *);
};
typedef void (*Function)(Thread *, void **parameters);
struct Kernel {
    const char *name;
    Function function;
    u32 static_shared_bytes, local_bytes, cluster, parameters;
    const u32 *parameter_bytes;
    u32 most_threads;
};

static inline void wait_phase(Thread *t, Barrier &barrier, u32 phase) {
    while (*(volatile u32 *)&barrier.phase == phase) {
        t->waits_for = &barrier.phase;
        t->waits_while = phase;
        t->yield(t);
    }
    t->waits_for = nullptr;
}
static inline void arrive(Barrier &barrier, u32 expected) {
    if (++barrier.arrived >= expected) barrier.arrived = 0, ++barrier.phase;
}
static inline void arrive_and_wait(Thread *t, Barrier &barrier, u32 expected) {
    const u32 phase = barrier.phase;
    arrive(barrier, expected);
    if (barrier.phase == phase) wait_phase(t, barrier, phase);
}
static inline void bar_sync(Thread *t, u32 id) { arrive_and_wait(t, t->block->barrier[id], t->block->alive); }
static inline bool bar_red(Thread *t, u32 id, bool mine, bool any) {
    Barrier &barrier = t->block->barrier[id];
    bool &sum = t->block->reduction[id][barrier.phase & 1];
    if (barrier.arrived == 0) sum = mine;
    else sum = any ? sum || mine : sum && mine;
    arrive_and_wait(t, barrier, t->block->alive);
    return sum;
}
static inline void cluster_arrive(Thread *t) {
    Cluster *cluster = t->block->cluster;
    t->cluster_phase = cluster->barrier.phase;
    arrive(cluster->barrier, cluster->alive);
}
static inline void cluster_wait(Thread *t) { wait_phase(t, t->block->cluster->barrier, t->cluster_phase); }
static inline Warp &warp_of(Thread *t) { return t->block->warps[t->warp]; }
static inline void warp_sync(Thread *t, u32 mask) {
    Warp &warp = warp_of(t);
    arrive_and_wait(t, warp.barrier, __builtin_popcount(mask & warp.alive));
}
static inline u32 shfl(Thread *t, char mode, u32 value, u32 b, u32 c, u32 mask, bool *valid) {
    Warp &warp = warp_of(t);
    warp.slot[t->lane] = value;
    warp_sync(t, mask);
    const u32 segment = c >> 8 & 31, clamp = c & 31, lowest = t->lane & segment;
    const s32 highest = lowest | (clamp & ~segment);
    s32 source;
    if (mode == 'i') source = lowest | (b & 31 & ~segment);
    else if (mode == 'u') source = (s32)t->lane - (s32)b;
    else if (mode == 'd') source = t->lane + b;
    else source = t->lane ^ b;
    *valid = mode == 'u' ? source >= highest : source <= highest;
    const u32 result = *valid ? (u32)warp.slot[source & 31] : value;
    warp_sync(t, mask);
    return result;
}
static inline u32 ballot(Thread *t, bool mine, u32 mask) {
    Warp &warp = warp_of(t);
    warp.slot[t->lane] = mine;
    warp_sync(t, mask);
    u32 result = 0;
    for (u32 lane = 0; lane < 32; ++lane)
        if ((mask & warp.alive) >> lane & 1) result |= (u32)warp.slot[lane] << lane;
    warp_sync(t, mask);
    return result;
}
// Whoever comes last does it for all.
template <class Do>
static inline void collective(Thread *t, Barrier &barrier, void **arguments, u32 place, u32 threads, void *mine,
                              Do act) {
    arguments[place] = mine;
    const u32 phase = barrier.phase;
    if (++barrier.arrived < threads) return wait_phase(t, barrier, phase);
    act(arguments);
    barrier.arrived = 0, ++barrier.phase;
}

// -- registers and memory --------------------------------------------------------------------------------------------

template <class To, class From>
static inline To as(From from) {  // the same bits
    To to{};
    memcpy(&to, &from, std::min(sizeof to, sizeof from));
    return to;
}
// A register takes a value; a wider one is filled with its sign or with zeros.
template <class Register, class Value>
static inline void set(Register &to, Value value) {
    if constexpr (std::is_same_v<Register, bool>) to = value;
    else if constexpr (sizeof(Register) > sizeof(Value) && std::is_integral_v<Value> && std::is_signed_v<Value>)
        to = as<Register>((s64)value);
    else to = as<Register>(value);
}
template <class T>
static inline T load(u64 address) {
    T value;
    if (address % sizeof(T)) broken("misaligned load", address);
    memcpy(&value, (const void *)address, sizeof value);
    return value;
}
template <class T>
static inline void store(u64 address, T value) {
    if (address % sizeof(T)) broken("misaligned store", address);
    memcpy((void *)address, &value, sizeof value);
}
static inline u64 aligned(u64 address, u32 bytes) {
    if (address % bytes) broken("misaligned vector access", address);
    return address;
}
// An address of the shared window: a byte of this block's; from 1 << 24 on, of the cluster's block (address >> 24) - 1.
static inline u64 shared(Thread *t, u64 address) {
    const Block *block = t->block;
    u32 byte = (u32)address;
    if (byte >> 24) block = block->cluster->member[(byte >> 24) - 1], byte &= 0xFFFFFF;
    if (byte >= block->shared_bytes) broken("beyond shared memory", address);
    return (u64)block->shared + byte;
}
static inline u64 to_shared(Thread *t, u64 generic) {
    for (u32 rank = 0; rank < t->block->cluster->blocks; ++rank) {
        const Block *block = t->block->cluster->member[rank];
        const u64 byte = generic - (u64)block->shared;
        if (byte < block->shared_bytes) return block == t->block ? byte : byte | (u64)(rank + 1) << 24;
    }
    broken("no address of shared memory", generic);
}
static inline u64 mapa(Thread *t, u64 generic, u32 rank) {
    const u64 byte = generic - (u64)t->block->shared;
    if (rank >= t->block->cluster->blocks) broken("mapa beyond the cluster", rank);
    if (byte >= t->block->shared_bytes) broken("mapa of no shared address", generic);
    return (u64)t->block->cluster->member[rank]->shared + byte;
}
// An mbarrier object is opaque in PTX; this is what ours holds.
struct MBarrier {
    u32 pending : 12, expected : 12;
    s32 bytes : 31;
    u32 phase : 1;
};
static_assert(sizeof(MBarrier) == 8);
static inline void mbarrier_update(u64 address, s32 arrivals, s32 bytes) {
    auto barrier = load<MBarrier>(address);
    barrier.bytes += bytes;
    barrier.pending -= arrivals;
    if (barrier.pending == 0 && barrier.bytes == 0) barrier.phase ^= 1, barrier.pending = barrier.expected;
    store(address, barrier);
}
static inline void mbarrier_init(u64 address, u32 count) {
    MBarrier barrier{};
    barrier.pending = barrier.expected = count;
    store(address, barrier);
}
static inline bool mbarrier_try_wait(Thread *t, u64 address, u32 parity) {
    if (load<MBarrier>(address).phase == (parity & 1)) t->yield(t);
    return load<MBarrier>(address).phase != (parity & 1);
}
static inline void bulk_copy(u64 to, u64 from, u32 bytes, u64 barrier) {
    if ((to | from | bytes) & 15) broken("bulk copy not of whole 16 bytes", to | from | bytes);
    memcpy((void *)to, (const void *)from, bytes);
    mbarrier_update(barrier, 0, -(s32)bytes);
}

// -- numbers ---------------------------------------------------------------------------------------------------------

static inline float bf16_value(u16 bits) { return as<float>((u32)bits << 16); }
static inline u16 to_bf16(double value) {
    const float single = (float)value;
    if (std::isnan(single)) return 0x7FFF;
    u32 bits = as<u32>(single);
    if (single != value && std::isfinite(single)) {  // what the first rounding lost becomes a sticky bit
        if (std::fabs((double)single) > std::fabs(value)) --bits;
        bits |= 1;
    }
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
static inline float f16_value(u16 bits) { return (float)as<_Float16>(bits); }
static inline u16 to_f16(double value) { return as<u16>((_Float16)value); }
static inline float e4m3_value(u8 bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const float size = exponent == 15 && mantissa == 7 ? NAN
                       : exponent                      ? std::ldexp(8 + mantissa, exponent - 10)
                                                       : std::ldexp(mantissa, -9);
    return bits & 128 ? -size : size;
}
static inline u8 to_e4m3(float value) {  // nearest, ties to even, saturating at 448
    if (std::isnan(value)) return 0x7F;
    int best = 0;
    for (int code = 1; code < 127; ++code) {
        const double nearer = std::fabs(e4m3_value(best) - std::fabs((double)value)) -
                              std::fabs(e4m3_value(code) - std::fabs((double)value));
        if (nearer > 0 || (nearer == 0 && code % 2 == 0)) best = code;
    }
    return best | (std::signbit(value) ? 128 : 0);
}
static inline u32 packed_fma(u32 a, u32 b, u32 c, bool bf16) {
    u32 result = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        auto part = [&](u32 word) { return (double)(bf16 ? bf16_value(word >> shift) : f16_value(word >> shift)); };
        const double sum = part(a) * part(b) + part(c);
        result |= (u32)(bf16 ? to_bf16(sum) : to_f16(sum)) << shift;
    }
    return result;
}
static inline u32 dp4a_s32(u32 a, u32 b, u32 c) {
    for (int i = 0; i < 32; i += 8) c += (s32)(s8)(a >> i) * (s32)(s8)(b >> i);
    return c;
}
static inline u32 prmt(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 select = selector >> 4 * i & 15;
        u8 byte = bytes >> 8 * (select & 7);
        if (select & 8) byte = byte & 128 ? 255 : 0;
        result |= (u32)byte << 8 * i;
    }
    return result;
}
static inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
    u32 result = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}
template <class T>
static inline T bit_field(T value, u32 from, u32 count) {
    typedef std::make_unsigned_t<T> U;
    const u32 width = sizeof(T) * 8;
    from &= 255, count &= 255;
    if (count == 0 || from >= width) return 0;
    const U mask = count >= width ? ~(U)0 : ((U)1 << count) - 1;
    U field = (U)value >> from & mask;
    if (std::is_signed_v<T> && from + count <= width && field >> (count - 1) & 1) field |= ~mask;
    return (T)field;
}
template <class T>
static inline T bit_insert(T field, T into, u32 from, u32 count) {
    const u32 width = sizeof(T) * 8;
    from &= 255, count &= 255;
    if (from >= width) return into;
    const T mask = (count >= width ? ~(T)0 : ((T)1 << count) - 1) << from;
    return (into & ~mask) | (field << from & mask);
}
template <class T>
static inline T shift_left(T value, u32 by) {
    return by >= sizeof(T) * 8 ? 0 : (T)(value << by);
}
template <class T>
static inline T shift_right(T value, u32 by) {
    if (by >= sizeof(T) * 8) return std::is_signed_v<T> && value < 0 ? (T)-1 : (T)0;
    return (T)(value >> by);
}
template <class T>
static inline T to_integer(double value, char rounding) {  // z, n, m, p as in cvt.rzi; saturating
    typedef std::numeric_limits<T> Limits;
    if (std::isnan(value)) return 0;
    value = rounding == 'z'   ? std::trunc(value)
            : rounding == 'n' ? std::nearbyint(value)
            : rounding == 'm' ? std::floor(value)
                              : std::ceil(value);
    if (value <= (double)Limits::min()) return Limits::min();
    return value >= (double)Limits::max() ? Limits::max() : (T)value;
}

// -- matrix multiply -------------------------------------------------------------------------------------------------

enum Format { BF16, F16, TF32, E4M3, E5M2, S8, S4, B1, F64 };
static inline u32 bits_of(Format format) {
    return format == F64 ? 64 : format == TF32 ? 32 : format <= F16 ? 16 : format == S4 ? 4 : format == B1 ? 1 : 8;
}
static inline double element(Format format, const u8 *row, u32 i) {
    switch (format) {
        case BF16: return bf16_value(load<u16>((u64)row + 2 * i));
        case F16: return f16_value(load<u16>((u64)row + 2 * i));
        case TF32: return as<float>(load<u32>((u64)row + 4 * i) & 0xFFFFE000u);
        case E4M3: return e4m3_value(row[i]);
        case E5M2: return f16_value((u16)row[i] << 8);
        case S8: return (s8)row[i];
        case S4: return (s8)(row[i / 2] >> 4 * (i % 2) << 4) >> 4;
        case B1: return row[i / 8] >> i % 8 & 1;
        default: return load<double>((u64)row + 8 * i);
    }
}
// What one thread brings to an instruction: its fragments and, where operands lie in shared memory, descriptors.
struct Fragments {
    Thread *t;
    void *d;
    const void *c;
    u64 a_descriptor, b_descriptor;
    u64 a[8], b[4];  // registers of 32 or 64 bits
    u32 metadata;
};
struct Shape {
    u32 m, n, k;
    Format a, b;
    char d;  // f: F32, h: F16, s: S32, d: F64
    bool sparse, a_in_registers;
};
// An element of D per register; two to a register of FP16.
static inline double d_element(char format, const void *registers, u32 i) {
    switch (format) {
        case 'f': return ((const float *)registers)[i];
        case 'h': return f16_value(((const u16 *)registers)[i]);
        case 's': return ((const s32 *)registers)[i];
        default: return ((const double *)registers)[i];
    }
}
static inline void set_d_element(char format, void *registers, u32 i, double value) {
    switch (format) {
        case 'f': ((float *)registers)[i] = (float)value; break;
        case 'h': ((u16 *)registers)[i] = to_f16(value); break;
        case 's': ((s32 *)registers)[i] = (s32)(s64)value; break;
        default: ((double *)registers)[i] = value;
    }
}
// Row `row` of a K-major operand in shared memory ("Matrix descriptor", asynchronous warpgroup level).
static inline void row_by_descriptor(Thread *t, u64 descriptor, u32 row, u32 bytes, u8 *to) {
    const u64 start = (descriptor & 0x3FFF) << 4, leading = (descriptor >> 16 & 0x3FFF) << 4,
              stride = (descriptor >> 32 & 0x3FFF) << 4;
    const u32 swizzle = descriptor >> 62;  // 0: none, 1: 128 bytes, 2: 64, 3: 32
    for (u32 byte = 0; byte < bytes; ++byte) {
        u64 address = start + row / 8 * stride;
        if (swizzle == 0) address += row % 8 * 16 + byte / 16 * leading + byte % 16;
        else {
            address += row % 8 * (256u >> swizzle) + byte;
            address ^= (address >> 7 & (swizzle == 1 ? 7 : swizzle == 2 ? 3 : 1)) << 4;
        }
        to[byte] = *(const u8 *)shared(t, address);
    }
}
// Fragment layouts, counted in registers ("Matrix fragments"): register `part` of lane (row % 8) * 4 + word % 4.
static inline void row_by_registers(void *const *arguments, u32 first, u32 row, u32 rows, u32 bytes, u32 word_bytes,
                                    bool of_b, u8 *to) {
    for (u32 word = 0; word < bytes / word_bytes; ++word) {
        const auto *from = (const Fragments *)arguments[first + row % 8 * 4 + word % 4];
        const u64 value = of_b ? from->b[word / 4] : from->a[word / 4 * (rows / 8) + row / 8];
        memcpy(to + word * word_bytes, &value, word_bytes);
    }
}
// Unpacks a row of A of which half was stored. Metadata: 4 bits for two of four elements (one of two of TF32). A row
// has its 16-bit pieces in the lanes of its quad, rows 8 to 15 in the upper half of the word.
static inline void expand(const Shape &s, void *const *arguments, u32 quad, bool upper, const u8 *stored, double *to) {
    for (u32 i = 0; i < s.k; ++i) to[i] = 0;
    const u32 kept = s.a == TF32 ? 1 : 2;
    for (u32 i = 0; i < s.k / 2; ++i) {
        const u32 bit = i / kept * 4;
        const u32 nibble =
            ((const Fragments *)arguments[quad + bit / 16])->metadata >> (bit % 16 + (upper ? 16 : 0)) & 15;
        u32 column;
        if (s.a == TF32) {
            if (nibble != 0b1110 && nibble != 0b0100) broken("metadata of TF32", nibble);
            column = i * 2 + (nibble == 0b1110);
        } else {
            if ((nibble & 3) >= nibble >> 2) broken("metadata is not ordered", nibble);
            column = i / 2 * 4 + (i % 2 ? nibble >> 2 : nibble & 3);
        }
        to[column] += element(s.a, stored, i);
    }
}
// EMULATOR_FAULT=wrong SM: one of a hundred products of SM 1 has one wrong element.
static inline bool planted_error(const Thread *t) {
    static const char *fault = getenv("EMULATOR_FAULT");
    static u32 products = 0;
    return fault && !strcmp(fault, "wrong SM") && t->block->smid == 1 && ++products % 100 == 0;
}
// D = A B^T + C of mma.sync (32 threads, M x 8) and wgmma (128 threads, 64 x N), exact but for D's last rounding.
static inline void multiply(const Shape &s, void *const *arguments, bool add) {
    static double a[64 * 1024], b[256 * 1024];
    alignas(16) u8 row[2048];
    auto *first = (const Fragments *)arguments[0];
    const bool warpgroup = s.m == 64;
    const u32 word_bytes = s.a == F64 ? 8 : 4, b_bytes = s.k * bits_of(s.b) / 8,
              a_bytes = s.k * bits_of(s.a) / 8 / (s.sparse ? 2 : 1);
    for (u32 j = 0; j < s.n; ++j) {
        if (warpgroup) row_by_descriptor(first->t, first->b_descriptor, j, b_bytes, row);
        else row_by_registers(arguments, 0, j, 8, b_bytes, word_bytes, true, row);
        for (u32 i = 0; i < s.k; ++i) b[j * s.k + i] = element(s.b, row, i);
    }
    for (u32 i = 0; i < s.m; ++i) {
        const u32 lanes = i / 16 * 32;  // the warp that has these rows
        if (s.a_in_registers)
            row_by_registers(arguments, lanes, i % 16, warpgroup ? 16 : s.m, a_bytes, word_bytes, false, row);
        else row_by_descriptor(first->t, first->a_descriptor, i, a_bytes, row);
        if (s.sparse) expand(s, arguments, lanes + i % 8 * 4, i % 16 >= 8, row, a + i * s.k);
        else
            for (u32 x = 0; x < s.k; ++x) a[i * s.k + x] = element(s.a, row, x);
    }
    if (planted_error(first->t)) a[0] += 1;
    for (u32 thread = 0; thread < (warpgroup ? 128 : 32); ++thread) {
        auto *mine = (const Fragments *)arguments[thread];
        if (warpgroup && (mine->b_descriptor != first->b_descriptor || mine->a_descriptor != first->a_descriptor))
            broken("descriptors differ within a warpgroup");
        const u32 rows = s.m == 8 ? 1 : 2;  // rows 8 apart that a thread has two columns of
        for (u32 r = 0; r < s.n / 4 * rows; ++r) {
            const u32 i = thread / 32 * 16 + thread % 32 / 4 + r / 2 % rows * 8,
                      j = r / (2 * rows) * 8 + thread % 4 * 2 + r % 2;
            double sum = 0;
            for (u32 x = 0; x < s.k; ++x) sum += a[i * s.k + x] * b[j * s.k + x];
            set_d_element(s.d, mine->d, r, sum + (add ? d_element(s.d, mine->c, r) : 0));
        }
    }
}
