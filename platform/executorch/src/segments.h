// The named segments of a program, read as the image that they are together.
#pragma once

#include <executorch/runtime/core/freeable_buffer.h>
#include <executorch/runtime/core/named_data_map.h>
#include <executorch/runtime/core/result.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace rill {

// A part of an image, as the program's table says (xtask/images, `segments.rs`).
struct Record {
  uint64_t offset;
  uint64_t len;
  char name[32];
};
static_assert(sizeof(Record) == 48);

class Segments {
 public:
  // `table` are the records of all segments but the first, which is `blob`; each begins where the one
  // before ends, and the last ends at `len`. All that is given must outlive this.
  static executorch::runtime::Result<Segments> of(
      const executorch::runtime::NamedDataMap& map, const void* table, size_t table_bytes,
      const void* blob, size_t blob_bytes, uint64_t len);

  // Reads a part of the image, whole or not at all.
  bool read(uint64_t offset, void* into, size_t len);

  // Whatever is kept of the segment that was read last.
  void forget();

  // Bytes of the largest segment: what reading takes beside the buffers.
  uint64_t largest() const { return largest_; }

 private:
  Record record(size_t index) const;
  const uint8_t* load(size_t index, const Record& record);

  const executorch::runtime::NamedDataMap* map_ = nullptr;
  const uint8_t* table_ = nullptr;
  size_t count_ = 0;
  const uint8_t* blob_ = nullptr;
  uint64_t blob_bytes_ = 0;
  uint64_t largest_ = 0;
  // An expert may be read in two parts, and a section in many.
  std::optional<executorch::runtime::FreeableBuffer> kept_;
  size_t kept_index_ = 0;
};

}  // namespace rill
