#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <new>

// swapcontext saves the signal mask by a system call, twenty times the cost of the switch itself.
#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_ASSEMBLY 1

extern "C" void simt_switch(void** from, void* to);

// The registers a System V callee preserves, then the stack pointer. The return address is already on the stack.
asm(R"(
.text
.hidden simt_switch
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
#endif

namespace simt {

Stacks allocate_stacks(unsigned fibers) {
  Stacks stacks;
  stacks.bytes = fibers * kStackBytes;
  void* memory =
      mmap(nullptr, stacks.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stacks.begin = reinterpret_cast<std::uintptr_t>(memory);
  // A stack that overflows must not reach its neighbour's.
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (unsigned i = 0; i < fibers; ++i) mprotect(static_cast<char*>(memory) + i * kStackBytes, page, PROT_NONE);
  return stacks;
}

#ifdef SIMT_ASSEMBLY

// Stacks that all began at the same place of a page would compete for the same few lines of the cache. 13 lines apart,
// those of a warp do not; that takes at most 52 KiB of a stack.
constexpr unsigned kStaggers = 64;
constexpr std::size_t kStaggerBytes = 13 * 64;

void switch_context(Context& from, Context& to) { simt_switch(&from.position, to.position); }

void prepare_context(Context& context, const Stacks& stacks, unsigned index, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stacks.begin + (index + 1) * kStackBytes - index % kStaggers * kStaggerBytes);
  *--top = nullptr;  // ends a debugger's backtrace, and aligns the stack as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  context.position = top;
}

#else

static ucontext_t* as_ucontext(Context& context) {
  if (!context.position) context.position = new ucontext_t();
  return static_cast<ucontext_t*>(context.position);
}

void switch_context(Context& from, Context& to) { swapcontext(as_ucontext(from), as_ucontext(to)); }

void prepare_context(Context& context, const Stacks& stacks, unsigned index, void (*entry)()) {
  ucontext_t* target = as_ucontext(context);
  getcontext(target);
  const std::size_t guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  target->uc_stack.ss_sp = reinterpret_cast<void*>(stacks.begin + index * kStackBytes + guard);
  target->uc_stack.ss_size = kStackBytes - guard;
  target->uc_link = nullptr;
  makecontext(target, entry, 0);
}

#endif

}  // namespace simt
