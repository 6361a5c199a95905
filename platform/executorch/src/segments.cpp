#include "segments.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace rill {

using executorch::runtime::Error;
using executorch::runtime::NamedDataMap;
using executorch::runtime::Result;

Result<Segments> Segments::of(const NamedDataMap& map, const void* table, size_t table_bytes,
                              const void* blob, size_t blob_bytes, uint64_t len) {
  if (blob_bytes > len || table_bytes % sizeof(Record) != 0) {
    return Error::DelegateInvalidCompatibility;
  }
  Segments segments;
  segments.map_ = &map;
  segments.table_ = static_cast<const uint8_t*>(table);
  segments.count_ = table_bytes / sizeof(Record);
  segments.blob_ = static_cast<const uint8_t*>(blob);
  segments.blob_bytes_ = blob_bytes;
  uint64_t end = blob_bytes;
  for (size_t index = 0; index < segments.count_; ++index) {
    const Record record = segments.record(index);
    const bool follows = record.offset == end && record.len > 0 && record.len <= len - end;
    if (!follows || record.name[sizeof record.name - 1] != '\0') {
      return Error::DelegateInvalidCompatibility;
    }
    end += record.len;
    segments.largest_ = std::max(segments.largest_, record.len);
  }
  if (end != len) {
    return Error::DelegateInvalidCompatibility;
  }
  return segments;
}

Record Segments::record(size_t index) const {
  Record record;
  std::memcpy(&record, table_ + index * sizeof record, sizeof record);
  return record;
}

bool Segments::read(uint64_t offset, void* into, size_t len) {
  uint8_t* to = static_cast<uint8_t*>(into);
  while (len > 0) {
    const uint8_t* from = nullptr;
    uint64_t here = 0;
    if (offset < blob_bytes_) {
      from = blob_ + offset;
      here = blob_bytes_ - offset;
    } else {
      // The last one that begins at or before `offset`.
      size_t index = 0;
      size_t end = count_;
      while (index + 1 < end) {
        const size_t middle = index + (end - index) / 2;
        (record(middle).offset <= offset ? index : end) = middle;
      }
      if (index >= count_) {
        return false;
      }
      const Record found = record(index);
      if (offset < found.offset || offset - found.offset >= found.len) {
        return false;
      }
      from = load(index, found);
      if (from == nullptr) {
        return false;
      }
      from += offset - found.offset;
      here = found.len - (offset - found.offset);
    }
    const size_t part = static_cast<size_t>(std::min<uint64_t>(len, here));
    std::memcpy(to, from, part);
    to += part;
    offset += part;
    len -= part;
  }
  return true;
}

const uint8_t* Segments::load(size_t index, const Record& record) {
  if (!kept_ || kept_index_ != index) {
    forget();
    auto data = map_->get_data(record.name);
    if (!data.ok() || data->size() != record.len) {
      return nullptr;
    }
    kept_.emplace(std::move(*data));
    kept_index_ = index;
  }
  return static_cast<const uint8_t*>(kept_->data());
}

void Segments::forget() { kept_.reset(); }

}  // namespace rill
