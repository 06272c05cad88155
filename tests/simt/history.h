// What happened to each cell of memory before, and whether an access agrees with it.
#pragma once

#include "runtime.h"

namespace simt {

// Accesses stamped before `since` are over: those of earlier launches, or for shared memory of earlier blocks.
void check_history(Buffer& buffer, std::size_t offset, std::size_t size, Kind kind, const void* site,
                   std::uint32_t since);

// An atomic on global memory: a block acquires what others released there.
void synchronise_blocks(std::uintptr_t address);

void begin_history_of_block();

// For the text of a report.
const char* verb(Kind kind);
std::string element(const Buffer& buffer, std::int64_t index);

}  // namespace simt
