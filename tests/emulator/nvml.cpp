// The part of NVML (libnvidia-ml.so.1) that gpuassay asks, of the GPU that driver.cpp emulates. Structures as
// nvidia-ml-py lays them out. A function that is not here is one that an old driver lacks.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <time.h>
#include <unistd.h>

typedef unsigned u32;
typedef unsigned long long u64;
typedef void *Handle;
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
#define NVML extern "C" int

static double number(const char *name, double otherwise) { return getenv(name) ? atof(getenv(name)) : otherwise; }
static const int DEVICES = (int)number("EMULATOR_DEVICES", 1),
                 CAPABILITY = (int)std::lround(10 * number("EMULATOR_CC", 9.0));
static const u64 MEMORY_BYTES = (u64)number("EMULATOR_MIB", 256) << 20;
static const u32 SM_CLOCK_MHZ = (u32)number("EMULATOR_CLAIMED_CLOCK_MHZ", 1755), POWER_MW = 500000;
static const bool MIG = number("EMULATOR_MIG", 0) != 0;  // then CUDA's device is an instance of a larger GPU
static const Handle INSTANCE = (Handle)1001;
static int ordinal(Handle handle) { return (int)(size_t)handle - 1; }
static int say(char *to, u32 bytes, const char *text) { return snprintf(to, bytes, "%s", text), SUCCESS; }
static int give(u32 *to, u32 value) { return *to = value, SUCCESS; }

NVML nvmlInit_v2() { return SUCCESS; }
NVML nvmlInitWithFlags(u32) { return SUCCESS; }
NVML nvmlShutdown() { return SUCCESS; }
extern "C" const char *nvmlErrorString(int error) {
    return error == NOT_SUPPORTED ? "Not Supported" : error == INVALID_ARGUMENT ? "Invalid Argument" : "Unknown Error";
}
NVML nvmlSystemGetDriverVersion(char *to, u32 bytes) { return say(to, bytes, "580.00.00"); }
NVML nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 13000, SUCCESS; }
NVML nvmlDeviceGetCount_v2(u32 *count) { return give(count, DEVICES); }
NVML nvmlDeviceGetHandleByIndex_v2(u32 index, Handle *to) {
    return (int)index >= DEVICES ? INVALID_ARGUMENT : (*to = (Handle)(size_t)(index + 1), SUCCESS);
}
NVML nvmlDeviceGetUUID(Handle of, char *to, u32 bytes) {
    char text[48], *end = text + sprintf(text, of == INSTANCE ? "MIG-" : "GPU-");
    const int first = of == INSTANCE ? 0 : MIG ? 0x70 : ordinal(of);
    for (int i = 0; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *end++ = '-';
        end += sprintf(end, "%02x", i == 3 ? 0 : 0x10 + i + first);
    }
    return say(to, bytes, text);
}
NVML nvmlDeviceGetName(Handle, char *to, u32 bytes) { return say(to, bytes, "NVIDIA EMULATED GPU"); }
NVML nvmlDeviceGetSerial(Handle, char *to, u32 bytes) { return say(to, bytes, "0"); }
NVML nvmlDeviceGetVbiosVersion(Handle, char *to, u32 bytes) { return say(to, bytes, "0.0"); }
NVML nvmlDeviceGetInforomImageVersion(Handle, char *to, u32 bytes) { return say(to, bytes, "0.0"); }
NVML nvmlDeviceGetGspFirmwareVersion(Handle, char *to) { return say(to, 64, "580.00.00"); }
struct Pci {
    char old_bus_id[16];
    u32 domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
NVML nvmlDeviceGetPciInfo_v3(Handle of, Pci *to) {
    *to = {"", 0, (u32)ordinal(of) + 1, 0, 0x233010de, 0x16c110de, ""};
    snprintf(to->bus_id, sizeof to->bus_id, "00000000:%02X:00.0", ordinal(of) + 1);
    return SUCCESS;
}
NVML nvmlDeviceGetCudaComputeCapability(Handle, int *major, int *minor) {
    return *major = CAPABILITY / 10, *minor = CAPABILITY % 10, SUCCESS;
}
NVML nvmlDeviceGetVirtualizationMode(Handle, u32 *to) { return give(to, (u32)number("EMULATOR_VIRTUALIZATION", 0)); }
NVML nvmlDeviceGetNumGpuCores(Handle, u32 *to) { return give(to, 128 * (u32)number("EMULATOR_SMS", 2)); }
struct Memory {
    u64 total, free, used;
};
NVML nvmlDeviceGetMemoryInfo(Handle of, Memory *to) {
    const u64 bytes = MIG && of != INSTANCE ? 7 * MEMORY_BYTES : MEMORY_BYTES;
    return *to = {bytes, bytes, 0}, SUCCESS;
}
NVML nvmlDeviceGetMemoryBusWidth(Handle, u32 *to) { return give(to, 5120); }
NVML nvmlDeviceGetMaxClockInfo(Handle, u32 type, u32 *to) { return give(to, type == 2 ? 2619 : 1980); }
NVML nvmlDeviceGetClockInfo(Handle, u32 type, u32 *to) { return give(to, type == 2 ? 2619 : SM_CLOCK_MHZ); }
NVML nvmlDeviceGetPowerManagementLimit(Handle, u32 *to) { return give(to, 700000); }
NVML nvmlDeviceGetPowerManagementDefaultLimit(Handle, u32 *to) { return give(to, 700000); }
NVML nvmlDeviceGetPowerUsage(Handle, u32 *to) { return give(to, POWER_MW); }
NVML nvmlDeviceGetTotalEnergyConsumption(Handle, u64 *to) {  // millijoules
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return *to = (u64)((now.tv_sec + now.tv_nsec * 1e-9) * POWER_MW), SUCCESS;
}
NVML nvmlDeviceGetTemperatureThreshold(Handle, u32, u32 *to) { return give(to, 90); }
NVML nvmlDeviceGetTemperature(Handle, u32, u32 *to) { return give(to, 55); }
NVML nvmlDeviceGetEccMode(Handle, u32 *current, u32 *pending) { return give(current, 1), give(pending, 1); }
NVML nvmlDeviceGetTotalEccErrors(Handle, u32, u32, u64 *to) { return *to = 0, SUCCESS; }
NVML nvmlDeviceGetRemappedRows(Handle, u32 *a, u32 *b, u32 *c, u32 *d) { return *a = *b = *c = *d = 0, SUCCESS; }
NVML nvmlDeviceGetMigMode(Handle, u32 *current, u32 *pending) { return give(current, MIG), give(pending, MIG); }
NVML nvmlDeviceGetMaxMigDeviceCount(Handle, u32 *to) { return give(to, 7); }
NVML nvmlDeviceGetMigDeviceHandleByIndex(Handle, u32 index, Handle *to) {
    return MIG && index == 0 ? (*to = INSTANCE, SUCCESS) : NOT_FOUND;
}
struct Attributes {
    u32 sms, copy_engines, decoders, encoders, jpeg, ofa, slices, compute_slices;
    u64 memory_mib;
};
NVML nvmlDeviceGetAttributes_v2(Handle of, Attributes *to) {
    if (of != INSTANCE) return INVALID_ARGUMENT;
    return *to = {(u32)number("EMULATOR_SMS", 2), 1, 1, 0, 1, 0, 1, 1, MEMORY_BYTES >> 20}, SUCCESS;
}
NVML nvmlDeviceGetCurrPcieLinkGeneration(Handle, u32 *to) { return give(to, 5); }
NVML nvmlDeviceGetMaxPcieLinkGeneration(Handle, u32 *to) { return give(to, 5); }
NVML nvmlDeviceGetGpuMaxPcieLinkGeneration(Handle, u32 *to) { return give(to, 5); }
NVML nvmlDeviceGetCurrPcieLinkWidth(Handle, u32 *to) { return give(to, 16); }
NVML nvmlDeviceGetMaxPcieLinkWidth(Handle, u32 *to) { return give(to, 16); }
NVML nvmlDeviceGetNvLinkState(Handle, u32 link, u32 *to) {
    return link >= 18 ? INVALID_ARGUMENT : give(to, DEVICES > 1);
}
NVML nvmlDeviceGetCurrentClocksEventReasons(Handle, u64 *to) { return *to = 0, SUCCESS; }
struct Utilisation {
    u32 gpu, memory;
};
NVML nvmlDeviceGetUtilizationRates(Handle, Utilisation *to) {
    return MIG ? NOT_SUPPORTED : (*to = {100, 50}, SUCCESS);
}
struct Process {
    u32 pid;
    u64 used_bytes;
    u32 gpu_instance, compute_instance;
};
NVML nvmlDeviceGetComputeRunningProcesses_v3(Handle, u32 *count, Process *to) {
    if (*count < 1) return *count = 1, INSUFFICIENT_SIZE;
    to[0] = {(u32)getpid(), 1 << 20, ~0u, ~0u};
    return *count = 1, SUCCESS;
}
NVML nvmlDeviceGetEncoderCapacity(Handle, u32, u32 *to) { return give(to, 0); }
NVML nvmlDeviceGetDecoderUtilization(Handle, u32 *now, u32 *period_us) { return give(now, 0), give(period_us, 1000); }
struct Pair {
    u32 first, second;
};
NVML nvmlSystemGetConfComputeCapabilities(Pair *to) { return *to = {0, 1}, SUCCESS; }
struct Triple {
    u32 environment, feature, tools;
};
NVML nvmlSystemGetConfComputeState(Triple *to) { return *to = {0, 0, 0}, SUCCESS; }
NVML nvmlGpmQueryDeviceSupport(Handle, Pair *to) { return to->second = 1, SUCCESS; }
