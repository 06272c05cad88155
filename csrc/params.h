// Plain structs that the kernels receive. The shape stands beside every pointer; strides count elements.
// Sizes: B images, N regions, M channels, P pixels of one image (all spatial dimensions, row-major).
#pragma once

#include <cstdint>

namespace cas_ext {

enum class Scalar : int32_t { kHalf, kBFloat16, kFloat, kDouble };
enum class Label : int32_t { kUInt8, kInt8, kInt16, kInt32, kInt64 };  // bool is read as uint8
enum class Pairs : int32_t { kOrdered, kUnordered, kMean };
enum class Activation : int32_t { kNone, kSoftmax };    // what turns input into descriptors
enum class Reduction : int32_t { kNone, kMean, kSum };  // of the images' losses

constexpr int64_t kMaxChannels = 1 << 22;  // so that the elements of a tile of 256 pixels are counted in 32 bits
constexpr int64_t kNoPixel = INT64_MAX;    // "no pixel of this image has a label out of range"
constexpr int32_t kIgnored = -1;           // a tile's label of a pixel that belongs to no region

struct Shape {
  int64_t images;    // B
  int64_t regions;   // N
  int64_t channels;  // M
  int64_t pixels;    // P
};

// A (B, M, P) array. Planar: pixel_stride == 1. Interleaved (channels_last): channel_stride == 1.
struct PixelArray {
  void* data;
  int64_t image_stride;
  int64_t channel_stride;
  int64_t pixel_stride;
  bool interleaved;
};

// A contiguous (B, P) array of region labels in [0, N) or ignore_index.
struct LabelArray {
  const void* data;
  Label type;
  int64_t ignore_index;
};

struct FinaliseParams {
  Shape shape;  // pixels is not used
  double alpha;
  Pairs pairs;
  bool wide;  // outputs are double, not float
  Reduction reduction;
  const int64_t* count;   // (B, N)
  const double* mean;     // (B, N, M)
  const double* scatter;  // (B, N)
  double* terms;          // (3, B) every image's loss, uniformer, discriminator; not used without a reduction
  void* loss;             // (B), or () where there is a reduction; the next two alike
  void* uniformer;
  void* discriminator;
  void* scale;   // (B, N)
  void* center;  // (B, N, M)
  void* offset;  // (B, N, M)
};

struct AccumulateParams {
  Shape shape;
  Scalar scalar;
  Activation activation;
  PixelArray input;
  LabelArray target;
  int64_t* count;          // (B, N)
  double* mean;            // (B, N, M)
  double* scatter;         // (B, N)
  int64_t* first_invalid;  // (B) pixel index of the first label out of range, or kNoPixel
  // CUDA only: what each of `splits` blocks of an image saw, where there are several, and what the last one does:
  // csrc/cuda/launch.h.
  int64_t splits;
  int64_t pixels_per_split;
  double* partial_mean;          // (B, splits, N, M); not read where partial_count is 0
  double* partial_scatter;       // (B, splits, N); not read where partial_count is 0
  int64_t* partial_count;        // (B, splits, N)
  int64_t* partial_invalid;      // (B, splits) like first_invalid
  unsigned long long* arrivals;  // (B + 1) words of csrc/cuda/arrival.cuh: an image's, and all images'
  uint64_t launch;               // the number to count from, or 0 where the first kernel clears words for the second
  bool with_loss;                // finalise follows, in the kernel that writes the moments
  FinaliseParams finalise;
};

struct ApplyParams {
  Shape shape;
  Scalar scalar;
  Activation activation;
  PixelArray input;
  PixelArray gradient;
  LabelArray target;
  const void* weight;     // (B) of acc_t, stride weight_stride
  int64_t weight_stride;  // 0: one weight for all images
  double factor;          // multiplies every weight
  const void* scale;      // (B, N) of acc_t
  const void* center;     // (B, N, M) of acc_t
  const void* offset;     // (B, N, M) of acc_t
};

}  // namespace cas_ext
