// RillBackend: what an ExecuTorch program that `cargo xtask image --board executorch-...` wrote delegates to.
//
// Options, per load (LoadBackendOptionsMap) or for all loads from now on (set_option), all optional:
//
//   "ram_mib"  int     MiB that the delegate may use in all; else what the program says
//   "threads"  int     threads that compute; else as many as there are cores
//   "program"  string  path of the program's file: experts are then read from it directly, without the
//                      loader and the page cache; else through the loader, one named segment at a time
//
// Inputs of `forward`: tokens, i64 [1, S], and the position of the first, i64 [1]. Its output: the logits
// after the last, f32 [1, 1, V]. At position 0 everything that was before is forgotten. A position that
// was computed before cuts back to it; the logits are then those that a new start would give, bit for
// bit. A position beyond what was computed is an error. After an error what was before the position is
// as it was.
//
// A handle may be used by one thread at a time. The program must outlive its methods.
#ifndef RILL_BACKEND_H
#define RILL_BACKEND_H

#include "rill.h"

// The rest of the backend is nobody's business.
#define RILL_BACKEND_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

// Registers the backend with the runtime, once; 0 when it is registered. The shared library does so when
// it is loaded. Programs that link the static one call it, which also keeps the linker from leaving the
// backend out.
RILL_BACKEND_API int rill_backend_register(void);

// The model of the method that was loaded last, for rill_encode and rill_piece; null when it was
// unloaded. It is not to be closed, and not to be used while the method executes.
RILL_BACKEND_API rill_model *rill_backend_model(void);

#ifdef __cplusplus
}
#endif

#endif  // RILL_BACKEND_H
