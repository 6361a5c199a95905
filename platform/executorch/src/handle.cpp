#include "handle.h"

#include <executorch/runtime/platform/log.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace rill {

using executorch::runtime::ArrayRef;
using executorch::runtime::CompileSpec;
using executorch::runtime::Error;
using executorch::runtime::NamedDataMap;
using executorch::runtime::Result;

namespace {

// Version of the specs and of how images are cut.
constexpr uint32_t kVersion = 1;
// RAM of a process that is not the model's arena: code, the stacks of threads and what reads take.
constexpr uint64_t kBeside = 16 << 20;
// An image begins with these bytes, and has its length at 16.
constexpr char kMagic[8] = {'R', 'I', 'L', 'L', '\r', '\n', '\x1a', '\n'};
constexpr size_t kHeader = 256;

// The value of a spec that must be there and have so many bytes.
bool fixed(ArrayRef<CompileSpec> specs, const char* key, void* value, size_t bytes) {
  for (const CompileSpec& spec : specs) {
    if (std::strcmp(spec.key, key) == 0 && spec.value.nbytes == bytes) {
      std::memcpy(value, spec.value.buffer, bytes);
      return true;
    }
  }
  return false;
}

int32_t read_segments(void* context, uint64_t offset, void* into, size_t len) {
  constexpr int32_t kUnreadable = 5;
  return static_cast<Segments*>(context)->read(offset, into, len) ? RILL_READ_WHOLE : kUnreadable;
}

Error failed(const char* what, const rill_error& error) {
  ET_LOG(Error, "RillBackend: %s: %s", what, error.text);
  return error_of(error.status);
}

}  // namespace

Error error_of(rill_status status) {
  switch (status) {
    case RILL_STATUS_OK:
      return Error::Ok;
    case RILL_STATUS_ARGUMENT:
    case RILL_STATUS_CONTEXT:
    case RILL_STATUS_TOKEN:
      return Error::InvalidArgument;
    case RILL_STATUS_ARENA:
    case RILL_STATUS_MEMORY:
      return Error::DelegateMemoryAllocationFailed;
    case RILL_STATUS_IMAGE:
    case RILL_STATUS_ABI:
      return Error::DelegateInvalidCompatibility;
    case RILL_STATUS_READ:
    case RILL_STATUS_SYSTEM:
      return Error::AccessFailed;
    case RILL_STATUS_BUSY:
    case RILL_STATUS_STOPPED:
      return Error::InvalidState;
    case RILL_STATUS_MODEL:
    case RILL_STATUS_CONVERSATION:
      return Error::DelegateInvalidHandle;
    default:
      return Error::Internal;
  }
}

Result<Specs> Specs::read(ArrayRef<CompileSpec> specs, const void* blob, size_t blob_bytes) {
  Specs found;
  uint32_t version = 0;
  const bool complete = fixed(specs, "version", &version, sizeof version) &&
                        fixed(specs, "context", &found.context, sizeof found.context) &&
                        fixed(specs, "budget", &found.budget, sizeof found.budget) &&
                        fixed(specs, "identity", &found.identity, sizeof found.identity);
  for (const CompileSpec& spec : specs) {
    if (std::strcmp(spec.key, "segments") == 0) {
      found.table = spec.value.buffer;
      found.table_bytes = spec.value.nbytes;
    }
  }
  if (!complete || version != kVersion) {
    ET_LOG(Error, "RillBackend: the program is of another version; make it again");
    return Error::DelegateInvalidCompatibility;
  }
  if (blob == nullptr || blob_bytes < kHeader || std::memcmp(blob, kMagic, sizeof kMagic) != 0) {
    ET_LOG(Error, "RillBackend: the delegate's blob is no part of an image");
    return Error::DelegateInvalidCompatibility;
  }
  std::memcpy(&found.image, static_cast<const char*>(blob) + 16, sizeof found.image);
  return found;
}

Handle::~Handle() {
  if (model_ != nullptr) {
    rill_close(model_);
  }
  if (arena_ != nullptr) {
    munmap(arena_, arena_bytes_);
  }
}

Error Handle::open(const Specs& specs, const Choices& choices, const NamedDataMap* map,
                   const void* blob, size_t blob_bytes) {
  uint64_t beside = kBeside;
  const char* path = choices.program[0] != '\0' ? choices.program : nullptr;
  if (path == nullptr) {
    if (map == nullptr) {
      ET_LOG(Error, "RillBackend: the runtime gives no named segments, and no program is named");
      return Error::NotFound;
    }
    auto segments =
        Segments::of(*map, specs.table, specs.table_bytes, blob, blob_bytes, specs.image);
    if (!segments.ok()) {
      ET_LOG(Error, "RillBackend: the table of segments contradicts the image");
      return segments.error();
    }
    segments_.emplace(std::move(*segments));
    beside += segments_->largest();
    reader_.abi = RILL_ABI;
    reader_.len = specs.image;
    reader_.read = read_segments;
    reader_.context = &*segments_;
  }
  const int threads = std::clamp(choices.threads, 0, 1024);
  const uint64_t ram = choices.ram_mib > 0 ? uint64_t(choices.ram_mib) << 20 : specs.budget;
  rill_options options = {};
  options.abi = RILL_ABI;
  // One conversation, computed as it comes: what only serves several would take RAM from the experts.
  options.flags = RILL_FLAG_NO_DRAFT | RILL_FLAG_NO_BEGINNINGS;
  options.context = specs.context;
  options.threads = threads;
  // With 0 bytes nothing would be planned at all.
  const Error opened = open_planned(path, options, ram > beside ? ram - beside : 1);
  if (opened == Error::DelegateMemoryAllocationFailed) {
    ET_LOG(Error, "RillBackend: of %llu MiB, %llu MiB are for other things than the model",
           static_cast<unsigned long long>(ram >> 20),
           static_cast<unsigned long long>(beside >> 20));
  }
  if (segments_) {
    segments_->forget();
  }
  if (opened != Error::Ok) {
    return opened;
  }
  rill_info info = {};
  rill_status status = rill_get_info(model_, &info);
  if (status == RILL_STATUS_OK && info.identity != specs.identity) {
    ET_LOG(Error, "RillBackend: the program's file and its tables are of two models");
    return Error::DelegateInvalidCompatibility;
  }
  vocab_ = info.vocab;
  context_ = info.context;
  if (status == RILL_STATUS_OK) {
    status = rill_conversation_new(model_, &talk_);
  }
  return error_of(status);
}

// Opens the model, from the file at `path` where there is one, in as much of `ram` bytes as it can use.
Error Handle::open_planned(const char* path, const rill_options& options, uint64_t ram) {
  rill_plan plan = {};
  rill_error error = {};
  const rill_status planned = path != nullptr
                                  ? rill_plan_file(path, 0, &options, ram, &plan, &error)
                                  : rill_plan_reader(&reader_, &options, ram, &plan, &error);
  if (planned != RILL_STATUS_OK) {
    return failed("no plan", error);
  }
  arena_bytes_ = static_cast<size_t>(plan.used);
  arena_ = mmap(nullptr, arena_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena_ == MAP_FAILED) {
    arena_ = nullptr;
    return Error::DelegateMemoryAllocationFailed;
  }
  // Neither is needed, both are faster: few large pages, and none that the system takes away.
  madvise(arena_, arena_bytes_, MADV_HUGEPAGE);
  mlock(arena_, arena_bytes_);
  uint8_t* arena = static_cast<uint8_t*>(arena_);
  const rill_status opened =
      path != nullptr
          ? rill_open_file(path, 0, &options, arena, arena_bytes_, &model_, &error)
          : rill_open_reader(&reader_, &options, arena, arena_bytes_, &model_, &error);
  return opened == RILL_STATUS_OK ? Error::Ok : failed("the model does not open", error);
}

Error Handle::compute(const int64_t* tokens, size_t count, int64_t position, float* logits) {
  size_t known = 0;
  const rill_status status = rill_tokens(model_, talk_, nullptr, &known, nullptr);
  if (status != RILL_STATUS_OK) {
    return error_of(status);
  }
  const bool stands = position >= 0 && static_cast<uint64_t>(position) <= known;
  if (!stands || count == 0 || count > context_ - static_cast<size_t>(position)) {
    ET_LOG(Error, "RillBackend: %zu tokens at position %lld do not follow %zu of at most %zu", count,
           static_cast<long long>(position), known, context_);
    return Error::InvalidArgument;
  }
  for (size_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || static_cast<uint64_t>(tokens[i]) >= vocab_) {
      ET_LOG(Error, "RillBackend: the model has no token %lld", static_cast<long long>(tokens[i]));
      return Error::InvalidArgument;
    }
  }
  if (static_cast<size_t>(position) < known) {
    const rill_status cut = rill_cut(model_, talk_, static_cast<size_t>(position));
    if (cut != RILL_STATUS_OK) {
      return error_of(cut);
    }
  }
  const Error computed = append(tokens, count, logits);
  if (computed != Error::Ok) {
    ET_LOG(Error, "RillBackend: %s", rill_error_text(model_));
    rill_cut(model_, talk_, static_cast<size_t>(position));
  }
  return computed;
}

Error Handle::append(const int64_t* tokens, size_t count, float* logits) {
  uint32_t ids[256];
  for (size_t at = 0; at < count;) {
    const size_t part = std::min(count - at, sizeof ids / sizeof ids[0]);
    std::copy_n(tokens + at, part, ids);
    const rill_status status = rill_append_tokens(model_, talk_, ids, part);
    if (status != RILL_STATUS_OK) {
      return error_of(status);
    }
    at += part;
  }
  const float* row = nullptr;
  size_t len = 0;
  const rill_status status = rill_logits(model_, talk_, &row, &len);
  if (status != RILL_STATUS_OK) {
    return error_of(status);
  }
  if (len != vocab_) {
    return Error::Internal;
  }
  std::copy_n(row, len, logits);
  return Error::Ok;
}

}  // namespace rill
