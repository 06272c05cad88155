// Names for people: threads, kernels and lines of source.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "runtime.h"

namespace simt {

namespace {

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// `addr2line` prints an inlined call as a chain of lines, the innermost first; those of our headers are noise.
std::string run_addr2line(const char* object, std::uintptr_t offset) {
  char command[1024];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", object, offset);
  FILE* pipe = popen(command, "r");
  if (!pipe) return "?";
  std::string lines;
  char line[1024];
  int frames = 0;
  while (std::fgets(line, sizeof line, pipe)) {
    std::string text(line);
    text.erase(text.find_last_not_of("\n ") + 1);
    text = text.substr(0, text.find(" (discriminator"));
    if (text.find("simt/include/") != std::string::npos || text.find("simt/simt.h") != std::string::npos) continue;
    if (++frames > 3) break;
    lines += lines.empty() ? file_name(text) : ", called at " + file_name(text);
  }
  pclose(pipe);
  return lines.empty() ? "?" : lines;
}

std::array<unsigned, 3> coordinates(uint3 a) { return {a.x, a.y, a.z}; }

std::string show(uint3 a) {
  return "(" + std::to_string(a.x) + "," + std::to_string(a.y) + "," + std::to_string(a.z) + ")";
}

uint3 thread_coordinates(unsigned id) {
  const dim3 size = state.job->block;
  return {id % size.x, id / size.x % size.y, id / (size.x * size.y)};
}

}  // namespace

std::string thread_name(unsigned id) { return show(thread_coordinates(id)); }

std::string resolve_site(const void* return_address) {
  static std::map<const void*, std::string> known;
  const auto found = known.find(return_address);
  if (found != known.end()) return found->second;
  Dl_info info{};
  if (!dladdr(return_address, &info) || !info.dli_fname) return "?";
  // One byte back lies in the call, and not in the line after it.
  const auto offset =
      reinterpret_cast<std::uintptr_t>(return_address) - 1 - reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  return known[return_address] = run_addr2line(info.dli_fname, offset);
}

// "accumulate_kernel<float, 4>" from "void cas_ext::accumulate_kernel<float, 4>(cas_ext::AccumulateParams)".
std::string function_name(const void* function) {
  static std::map<const void*, std::string> known;
  std::string& name = known[function];
  if (!name.empty()) return name;
  Dl_info info{};
  if (!dladdr(function, &info) || !info.dli_sname) return name = "a kernel";
  int status = 0;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  name = demangled ? demangled : info.dli_sname;
  std::free(demangled);
  // The parameter list is the last pair of brackets; template arguments may hold others.
  int depth = 0;
  std::size_t end = name.size();
  while (end > 0) {
    --end;
    depth += name[end] == ')' ? 1 : name[end] == '(' ? -1 : 0;
    if (depth == 0) break;
  }
  if (end > 0) name.erase(end);
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  for (const char* scope : {"cas_ext::", "(anonymous namespace)::"})
    if (name.rfind(scope, 0) == 0) name.erase(0, std::string(scope).size());
  return name;
}

Error describe(const Problem& problem) {
  std::vector<std::string> sites;
  for (const void* site : problem.sites) sites.push_back(resolve_site(site));
  std::string text = problem.text;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const std::size_t at = text.find("%" + std::to_string(i));
    if (at != std::string::npos) text.replace(at, 2, sites[i]);
  }
  std::string where = state.kernel;
  if (state.current)
    where += ": block " + show(state.block) + " thread " + thread_name(state.current->id) + " ";
  else
    where += ": ";
  Error error(std::string(problem.kind) + " in " + where + text);
  error.kind = problem.kind;
  error.kernel = state.kernel;
  error.block = coordinates(state.block);
  if (state.current) error.thread = coordinates(state.current->index);
  error.buffer = problem.buffer;
  error.index = problem.index;
  error.sites = sites;
  return error;
}

}  // namespace simt
