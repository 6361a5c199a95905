#include "rill_backend.h"

#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/platform/log.h>

#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <variant>

#include "handle.h"

namespace rill {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::ArrayRef;
using executorch::runtime::Backend;
using executorch::runtime::BackendExecutionContext;
using executorch::runtime::BackendInitContext;
using executorch::runtime::BackendInterface;
using executorch::runtime::BackendOption;
using executorch::runtime::BackendOptionContext;
using executorch::runtime::CompileSpec;
using executorch::runtime::DelegateHandle;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::kMaxOptionValueLength;
using executorch::runtime::Result;
using executorch::runtime::Span;

// The handle whose method was loaded last.
std::atomic<Handle*> newest{nullptr};

// Takes over an option.
Error choose(Choices& choices, const BackendOption& option) {
  const int* number = std::get_if<int>(&option.value);
  const auto* text = std::get_if<std::array<char, kMaxOptionValueLength>>(&option.value);
  if (std::strcmp(option.key, "ram_mib") == 0 && number != nullptr && *number > 0) {
    choices.ram_mib = *number;
  } else if (std::strcmp(option.key, "threads") == 0 && number != nullptr && *number >= 0) {
    choices.threads = *number;
  } else if (std::strcmp(option.key, "program") == 0 && text != nullptr &&
             text->back() == '\0') {
    std::memcpy(choices.program, text->data(), text->size());
  } else {
    ET_LOG(Error, "RillBackend: no option `%.63s` of this kind or with this value", option.key);
    return Error::InvalidArgument;
  }
  return Error::Ok;
}

Error choose_all(Choices& choices, Span<const BackendOption> options) {
  Choices chosen = choices;
  for (const BackendOption& option : options) {
    const Error error = choose(chosen, option);
    if (error != Error::Ok) {
      return error;
    }
  }
  choices = chosen;
  return Error::Ok;
}

// An argument that is a tensor of this type and shape, a size of -1 standing for any.
template <size_t N>
const Tensor* tensor(const EValue* value, ScalarType type, const ssize_t (&sizes)[N]) {
  if (value == nullptr || !value->isTensor()) {
    return nullptr;
  }
  const Tensor& tensor = value->toTensor();
  if (tensor.scalar_type() != type || tensor.dim() != static_cast<ssize_t>(N) ||
      tensor.const_data_ptr() == nullptr) {
    return nullptr;
  }
  for (size_t i = 0; i < N; ++i) {
    if (sizes[i] >= 0 && tensor.size(static_cast<ssize_t>(i)) != sizes[i]) {
      return nullptr;
    }
  }
  return &tensor;
}

class RillBackend final : public BackendInterface {
 public:
  bool is_available() const override { return rill_abi() == RILL_ABI; }

  Result<DelegateHandle*> init(BackendInitContext& context, FreeableBuffer* processed,
                               ArrayRef<CompileSpec> compile_specs) const override {
    Choices choices;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      choices = choices_;
    }
    const Error chosen = choose_all(choices, context.runtime_specs());
    if (chosen != Error::Ok) {
      return chosen;
    }
    const void* blob = processed->data();
    const size_t bytes = processed->size();
    const auto specs = Specs::read(compile_specs, blob, bytes);
    if (!specs.ok()) {
      return specs.error();
    }
    Handle* handle = new (std::nothrow) Handle;
    if (handle == nullptr) {
      return Error::DelegateMemoryAllocationFailed;
    }
    const Error opened =
        handle->open(*specs, choices, context.get_named_data_map(), blob, bytes);
    if (opened != Error::Ok) {
      delete handle;
      return opened;
    }
    newest.store(handle);
    return handle;
  }

  Error execute(BackendExecutionContext&, DelegateHandle* delegate,
                Span<EValue*> args) const override {
    Handle* handle = static_cast<Handle*>(delegate);
    if (handle == nullptr) {
      return Error::DelegateInvalidHandle;
    }
    if (args.size() != 3) {
      ET_LOG(Error, "RillBackend: %zu arguments where there are 3", args.size());
      return Error::InvalidArgument;
    }
    const ssize_t vocab = static_cast<ssize_t>(handle->vocab());
    const Tensor* tokens = tensor(args[0], ScalarType::Long, {1, -1});
    const Tensor* position = tensor(args[1], ScalarType::Long, {1});
    const Tensor* logits = tensor(args[2], ScalarType::Float, {1, 1, vocab});
    if (tokens == nullptr || position == nullptr || logits == nullptr) {
      ET_LOG(Error, "RillBackend: not (i64 [1, S], i64 [1]) -> f32 [1, 1, %zd]", vocab);
      return Error::InvalidArgument;
    }
    return handle->compute(tokens->const_data_ptr<int64_t>(),
                           static_cast<size_t>(tokens->size(1)),
                           *position->const_data_ptr<int64_t>(),
                           logits->mutable_data_ptr<float>());
  }

  void destroy(DelegateHandle* delegate) const override {
    Handle* handle = static_cast<Handle*>(delegate);
    Handle* expected = handle;
    newest.compare_exchange_strong(expected, nullptr);
    delete handle;
  }

  Error set_option(BackendOptionContext&, const Span<BackendOption>& options) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return choose_all(choices_, {options.data(), options.size()});
  }

  Error get_option(BackendOptionContext&, Span<BackendOption>& options) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (BackendOption& option : options) {
      if (std::strcmp(option.key, "ram_mib") == 0) {
        option.value = choices_.ram_mib;
      } else if (std::strcmp(option.key, "threads") == 0) {
        option.value = choices_.threads;
      } else if (std::strcmp(option.key, "program") == 0) {
        std::array<char, kMaxOptionValueLength> text;
        std::memcpy(text.data(), choices_.program, text.size());
        option.value = text;
      } else {
        return Error::NotFound;
      }
    }
    return Error::Ok;
  }

 private:
  // What is chosen for all loads that say nothing else.
  mutable std::mutex mutex_;
  Choices choices_;
};

RillBackend& backend() {
  static RillBackend backend;
  return backend;
}

// Where this library is loaded, or linked whole.
[[maybe_unused]] const int registered = rill_backend_register();

}  // namespace
}  // namespace rill

int rill_backend_register(void) {
  static const executorch::runtime::Error error =
      executorch::runtime::register_backend({"RillBackend", &rill::backend()});
  return static_cast<int>(error);
}

rill_model* rill_backend_model(void) {
  const rill::Handle* handle = rill::newest.load();
  return handle != nullptr ? handle->model() : nullptr;
}
