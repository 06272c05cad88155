// Stackful coroutines for the CUDA threads of one block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

constexpr std::size_t kStackBytes = 192 << 10;  // a kernel's local arrays; unused pages cost nothing

struct Context {
  void* position = nullptr;  // the stack pointer, or a ucontext_t
};

// Stops here (in `from`) and continues where `to` stopped.
void switch_context(Context& from, Context& to);

// The lowest address of the stacks of all fibers, which lie one after another, and their bytes.
struct Stacks {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
};
Stacks allocate_stacks(unsigned fibers);

// `context` starts `entry`, which must not return, on the stack of fiber `index`.
void prepare_context(Context& context, const Stacks& stacks, unsigned index, void (*entry)());

}  // namespace simt
