// Loads a program in the released runtime and says, or checks, what comes of it. `cargo xtask test --board
// executorch-...` runs it.
//
//   check logits MODEL.pte IDS LOGITS [OPTION=VALUE]...   every way of feeding tokens gives these logits
//   check load MODEL.pte [OPTION=VALUE]...                prints the error of loading, 0 for none
//   check shapes MODEL.pte [OPTION=VALUE]...              what `forward` refuses, and that it goes on
//   check speed MODEL.pte TOKENS [OPTION=VALUE]...        generates; prints tokens/s and peak RSS
//
// IDS: numbers, separated by white space. LOGITS: a NumPy file, float32 (tokens, vocabulary).
// Options are those of rill_backend.h, and `loader=file` or `loader=mmap`.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "rill_backend.h"

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::BackendOption;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::LoadBackendOptionsMap;
using executorch::runtime::Program;
using executorch::runtime::Span;

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "check: %s\n", what.c_str());
  std::exit(EXIT_FAILURE);
}

void require(bool holds, const std::string& what) {
  if (!holds) {
    fail(what);
  }
}

std::string bytes_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A program, loaded with all checks.
struct Loaded {
  std::unique_ptr<Module> module;
  Error error = Error::Ok;
};

Loaded load(const char* path, int count, char** settings) {
  std::vector<BackendOption> options;
  auto mode = Module::LoadMode::File;
  for (int i = 0; i < count; ++i) {
    const std::string setting = settings[i];
    const size_t equals = setting.find('=');
    require(equals != std::string::npos, "not OPTION=VALUE: " + setting);
    const std::string key = setting.substr(0, equals);
    const std::string value = setting.substr(equals + 1);
    if (key == "loader") {
      mode = value == "mmap" ? Module::LoadMode::Mmap : Module::LoadMode::File;
      continue;
    }
    BackendOption option;
    std::strncpy(option.key, key.c_str(), sizeof option.key - 1);
    if (key == "program") {
      std::array<char, executorch::runtime::kMaxOptionValueLength> text{};
      value.copy(text.data(), text.size() - 1);
      option.value = text;
    } else {
      option.value = std::atoi(value.c_str());
    }
    options.push_back(option);
  }
  Loaded loaded{std::make_unique<Module>(path, mode)};
  LoadBackendOptionsMap map;
  loaded.error = map.set_options("RillBackend", {options.data(), options.size()});
  if (loaded.error == Error::Ok) {
    loaded.error = loaded.module->load(map, Program::Verification::InternalConsistency);
  }
  if (loaded.error == Error::Ok) {
    loaded.error = loaded.module->load_forward();
  }
  return loaded;
}

// The logits after these tokens at a position; null and the error where there are none.
const float* forward(Module& module, std::vector<int64_t> tokens, int64_t position, Error& error) {
  const int count = static_cast<int>(tokens.size());
  const auto input = from_blob(tokens.data(), {1, count}, ScalarType::Long);
  const auto start = from_blob(&position, {1}, ScalarType::Long);
  const auto outputs = module.forward({input, start});
  error = outputs.error();
  return outputs.ok() ? outputs->at(0).toTensor().const_data_ptr<float>() : nullptr;
}

int logits(const char* program, const char* ids_path, const char* npy_path, int count,
           char** settings) {
  std::vector<int64_t> ids;
  std::ifstream file(ids_path);
  std::copy(std::istream_iterator<int64_t>(file), {}, std::back_inserter(ids));
  const std::string npy = bytes_of(npy_path);
  require(ids.size() >= 8 && npy.size() > 10, "too few tokens, or no logits");
  const size_t head = 10 + static_cast<uint8_t>(npy[8]) + 256 * static_cast<uint8_t>(npy[9]);
  const size_t row = (npy.size() - head) / ids.size();

  const Loaded loaded = load(program, count, settings);
  require(loaded.error == Error::Ok, "the program does not load");
  Module& module = *loaded.module;
  const auto vocab = module.get("get_vocab_size");
  require(vocab.ok() && static_cast<size_t>(vocab->toInt()) * sizeof(float) == row,
          "the vocabulary is another");
  // Feeds `count` tokens at `at`, and compares the logits after the last.
  const auto feed = [&](size_t at, size_t count) {
    Error error = Error::Ok;
    const float* found =
        forward(module, {ids.begin() + at, ids.begin() + at + count}, at, error);
    const std::string place = std::to_string(count) + " tokens at " + std::to_string(at);
    require(found != nullptr, place + ": error " + std::to_string(static_cast<int>(error)));
    require(std::memcmp(found, npy.data() + head + (at + count - 1) * row, row) == 0,
            place + ": other logits");
  };
  const size_t all = ids.size();
  feed(0, all);
  for (size_t at = 0; at < all; ++at) {
    feed(at, 1);
  }
  // A new start, in parts of other lengths.
  for (size_t at = 0; at < all;) {
    const size_t part = std::min(all - at, 1 + at % 5);
    feed(at, part);
    at += part;
  }
  // Back by one, by a few, by half, to the second, and on to the end each time.
  for (const size_t at : {all - 1, all - 3, all / 2, size_t{1}}) {
    feed(at, 1);
    feed(at, all - at);
  }
  feed(0, 1);
  require(module.unload_forward(), "the method does not unload");
  require(rill_backend_model() == nullptr, "the model outlives its method");
  std::printf("%zu tokens: all logits are the same\n", all);
  return EXIT_SUCCESS;
}

int shapes(const char* program, int count, char** settings) {
  const Loaded loaded = load(program, count, settings);
  require(loaded.error == Error::Ok, "the program does not load");
  Module& module = *loaded.module;
  const auto number = [&](const char* name) {
    const auto value = module.get(name);
    require(value.ok(), name);
    return value->toInt();
  };
  const int64_t vocab = number("get_vocab_size");
  const int64_t context = number("get_max_context_len");
  Error error = Error::Ok;
  const float* row = forward(module, {1, 2, 3, 4}, 0, error);
  require(row != nullptr, "no logits");
  const std::vector<float> first(row, row + vocab);
  const auto refused = [&](const char* what, Error error) {
    require(error == Error::InvalidArgument || error == Error::NotSupported,
            std::string("not refused as wrong: ") + what);
    std::printf("%s: 0x%x\n", what, static_cast<unsigned>(error));
  };
  const auto refuses = [&](const char* what, std::vector<int64_t> tokens, int64_t position) {
    Error error = Error::Ok;
    forward(module, std::move(tokens), position, error);
    refused(what, error);
  };
  refuses("a position that was not computed", {5}, 9);
  refuses("a position below 0", {5}, -1);
  refuses("a token below 0", {5, -1}, 4);
  refuses("a token that the model does not have", {5, vocab}, 4);
  refuses("more tokens than the context has", std::vector<int64_t>(context + 1, 5), 0);
  refuses("more tokens than the context has left", std::vector<int64_t>(context, 5), 1);
  std::vector<int64_t> ids{1, 2, 3, 4};
  std::vector<int> narrow{1, 2, 3, 4};
  int64_t position = 0;
  const auto start = from_blob(&position, {1}, ScalarType::Long);
  const auto input = from_blob(ids.data(), {1, 4}, ScalarType::Long);
  const auto run = [&](const char* what, const std::vector<EValue>& inputs) {
    refused(what, module.forward(inputs).error());
  };
  run("two rows", {from_blob(ids.data(), {2, 2}, ScalarType::Long), start});
  run("one dimension", {from_blob(ids.data(), {4}, ScalarType::Long), start});
  run("no tokens", {from_blob(ids.data(), {1, 0}, ScalarType::Long), start});
  run("32-bit tokens", {from_blob(narrow.data(), {1, 4}, ScalarType::Int), start});
  run("two positions", {input, from_blob(ids.data(), {2}, ScalarType::Long)});
  run("a number for tokens", {EValue(int64_t{5}), start});
  // What was refused changed nothing.
  row = forward(module, {3, 4}, 2, error);
  require(row != nullptr && std::memcmp(row, first.data(), vocab * sizeof(float)) == 0,
          "other logits after what was refused");
  return EXIT_SUCCESS;
}

int speed(const char* program, int tokens, int count, char** settings) {
  const Loaded loaded = load(program, count, settings);
  require(loaded.error == Error::Ok, "the program does not load");
  const auto vocab = loaded.module->get("get_vocab_size");
  require(vocab.ok(), "no vocabulary");
  Error error = Error::Ok;
  // Random ids, so that weights that were never trained do not fall into a loop.
  uint64_t state = 7;
  const auto next = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(vocab->toInt()));
  };
  require(forward(*loaded.module, {next()}, 0, error) != nullptr, "no logits");
  const auto start = std::chrono::steady_clock::now();
  for (int at = 1; at <= tokens; ++at) {
    require(forward(*loaded.module, {next()}, at, error) != nullptr, "no logits");
  }
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"tokens_per_second\": %.3f, \"peak_resident\": %ld}\n", tokens / time.count(),
              usage.ru_maxrss * 1024L);
  return EXIT_SUCCESS;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string task = count > 1 ? arguments[1] : "";
  if (task == "logits" && count >= 5) {
    return logits(arguments[2], arguments[3], arguments[4], count - 5, arguments + 5);
  }
  if (task == "load" && count >= 3) {
    const Loaded loaded = load(arguments[2], count - 3, arguments + 3);
    std::printf("%d\n", static_cast<int>(loaded.error));
    return EXIT_SUCCESS;
  }
  if (task == "shapes" && count >= 3) {
    return shapes(arguments[2], count - 3, arguments + 3);
  }
  if (task == "speed" && count >= 4) {
    return speed(arguments[2], std::atoi(arguments[3]), count - 4, arguments + 4);
  }
  fail("no such task, or too few arguments");
}
