// A chat with an ExecuTorch program on the terminal: chat MODEL.pte [MIB]
// The second argument is how many MiB the model may take. Each line is a question; greedy.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "rill_backend.h"

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::LoadBackendOptionsMap;

namespace {

int fail(const char* what, Error error) {
  std::fprintf(stderr, "chat: %s: error 0x%x\n", what, static_cast<unsigned>(error));
  return EXIT_FAILURE;
}

// What a method without arguments gives.
std::vector<int64_t> constants(Module& module, const char* name) {
  std::vector<int64_t> numbers;
  const auto values = module.execute(name);
  if (values.ok()) {
    for (const auto& value : *values) {
      numbers.push_back(value.toInt());
    }
  }
  return numbers;
}

// Appends the tokens of a text, in which names of control tokens may count; false where it has none.
bool encode(const std::string& text, bool control, std::vector<int64_t>& tokens) {
  std::vector<uint32_t> ids(text.size() + 1);
  size_t count = 0;
  const rill_status status = rill_encode(rill_backend_model(), text.data(), text.size(), control,
                                         ids.data(), ids.size(), &count);
  if (status != RILL_STATUS_OK) return false;
  tokens.insert(tokens.end(), ids.begin(), ids.begin() + count);
  return true;
}

void print(int64_t token) {
  const char* bytes = nullptr;
  size_t len = 0;
  if (rill_piece(rill_backend_model(), static_cast<uint32_t>(token), &bytes, &len) ==
      RILL_STATUS_OK) {
    std::cout.write(bytes, static_cast<std::streamsize>(len)).flush();
  }
}

class Chat {
 public:
  explicit Chat(Module& module) : module_(module), stops_(constants(module, "get_eos_ids")) {}

  Error ask(const std::string& question) {
    std::vector<int64_t> tokens;
    if (position_ == 0) tokens = constants(module_, "get_bos_id");
    // The token that ended the answer before was not computed yet.
    const char* begin = position_ == 0 ? "<|im_start|>user\n" : "<|im_end|>\n<|im_start|>user\n";
    if (!encode(begin, true, tokens) || !encode(question, false, tokens) ||
        !encode("<|im_end|>\n<|im_start|>assistant\n", true, tokens)) {
      std::cout << "(" << rill_error_text(rill_backend_model()) << ".)\n";
      return Error::Ok;
    }
    for (;;) {
      int64_t next = 0;
      const Error error = forward(tokens, next);
      if (error != Error::Ok || std::count(stops_.begin(), stops_.end(), next) > 0) {
        std::cout << '\n';
        return error;
      }
      print(next);
      tokens = {next};
    }
  }

  void begin_anew() { position_ = 0; }

 private:
  // The best token after these.
  Error forward(std::vector<int64_t>& tokens, int64_t& next) {
    const int count = static_cast<int>(tokens.size());
    const auto input = from_blob(tokens.data(), {1, count}, ScalarType::Long);
    const auto position = from_blob(&position_, {1}, ScalarType::Long);
    const auto outputs = module_.forward({input, position});
    if (!outputs.ok()) {
      return outputs.error();
    }
    const auto logits = outputs->at(0).toTensor();
    const float* first = logits.const_data_ptr<float>();
    next = std::max_element(first, first + logits.numel()) - first;
    position_ += count;
    return Error::Ok;
  }

  Module& module_;
  std::vector<int64_t> stops_;
  int64_t position_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3 || rill_backend_register() != 0) {
    std::fprintf(stderr, "usage: chat MODEL.pte [MIB]\n");
    return EXIT_FAILURE;
  }
  // The backend reads experts from the same file.
  BackendOptions<2> options;
  Error error = options.set_option("program", arguments[1]);
  if (error == Error::Ok && count == 3) {
    error = options.set_option("ram_mib", std::atoi(arguments[2]));
  }
  LoadBackendOptionsMap map;
  if (error == Error::Ok) {
    error = map.set_options("RillBackend", options.view());
  }
  Module module(arguments[1], Module::LoadMode::File);
  if (error == Error::Ok) {
    error = module.load(map, executorch::runtime::Program::Verification::InternalConsistency);
  }
  if (error == Error::Ok) {
    error = module.load_forward();
  }
  if (error != Error::Ok) {
    return fail(arguments[1], error);
  }
  Chat chat(module);
  for (std::string line; std::getline(std::cin, line);) {
    error = chat.ask(line);
    if (error == Error::InvalidArgument) {
      std::cout << "(The conversation was too long; it begins anew.)\n";
      chat.begin_anew();
    } else if (error != Error::Ok) {
      return fail("no answer", error);
    }
  }
  return EXIT_SUCCESS;
}
