// A loaded method: a model in an arena of its own, and its one conversation.
#pragma once

#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/error.h>

#include <cstddef>
#include <cstdint>

#include "rill.h"
#include "segments.h"

namespace rill {

// What a user may choose. Zero and empty choose what the program says, or suits most.
struct Choices {
  int ram_mib = 0;
  int threads = 0;
  char program[executorch::runtime::kMaxOptionValueLength] = {};
};

// What the program says, see xtask/images, `program.rs`.
struct Specs {
  uint32_t context = 0;
  uint64_t budget = 0;
  uint64_t identity = 0;
  // Bytes of the image.
  uint64_t image = 0;
  const void* table = nullptr;
  size_t table_bytes = 0;

  static executorch::runtime::Result<Specs> read(
      executorch::runtime::ArrayRef<executorch::runtime::CompileSpec> specs, const void* blob,
      size_t blob_bytes);
};

// The error of the runtime that comes nearest to what a call with the model came to.
executorch::runtime::Error error_of(rill_status status);

class Handle {
 public:
  Handle() = default;
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  // Opens the model; nothing is kept of `blob`.
  executorch::runtime::Error open(const Specs& specs, const Choices& choices,
                                  const executorch::runtime::NamedDataMap* map, const void* blob,
                                  size_t blob_bytes);

  // The logits after `count` tokens that stand at `position`, to room for as many as there are.
  executorch::runtime::Error compute(const int64_t* tokens, size_t count, int64_t position,
                                     float* logits);

  size_t vocab() const { return vocab_; }
  rill_model* model() const { return model_; }

 private:
  executorch::runtime::Error open_planned(const char* path, const rill_options& options,
                                          uint64_t ram);
  executorch::runtime::Error append(const int64_t* tokens, size_t count, float* logits);

  rill_model* model_ = nullptr;
  rill_conversation talk_ = 0;
  void* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  size_t vocab_ = 0;
  size_t context_ = 0;
  std::optional<Segments> segments_;
  rill_reader reader_ = {};
};

}  // namespace rill
