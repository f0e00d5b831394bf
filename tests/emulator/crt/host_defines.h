// Stands in for the file that comes with the compiler's package only: for host code all of these mean nothing.
#pragma once
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __cudart_builtin__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __builtin_align__(n) __align__(n)
#define __align__(n) __attribute__((aligned(n)))
#define CUDARTAPI
