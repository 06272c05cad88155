// The operators' schemas. Shapes, dtypes and meanings: docs/design.md. Kernels: cpu/operators.cpp, cuda/operators.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(cas_ext, m) {
  m.def(
      "accumulate(Tensor input, Tensor target, int num_regions, int ignore_index, bool validate,"
      " int activation=0)"
      " -> (Tensor count, Tensor mean, Tensor scatter)");
  m.def(
      "finalise(Tensor count, Tensor mean, Tensor scatter, float alpha, int pairs, bool wide)"
      " -> (Tensor loss, Tensor uniformer, Tensor discriminator, Tensor scale, Tensor center, Tensor offset)");
  m.def(
      "forward(Tensor input, Tensor target, int num_regions, int ignore_index, bool validate, int activation,"
      " float alpha, int pairs, int reduction)"
      " -> (Tensor loss, Tensor uniformer, Tensor discriminator, Tensor scale, Tensor center, Tensor offset,"
      " Tensor count, Tensor mean, Tensor scatter)");
  m.def(
      "apply(Tensor input, Tensor target, Tensor weight, bool average, Tensor scale, Tensor center, Tensor offset,"
      " int ignore_index, int activation=0) -> Tensor");
  m.def("cpu_kernels() -> int");  // index into INSTRUCTION_SETS of cas_ext/ops.py
}
