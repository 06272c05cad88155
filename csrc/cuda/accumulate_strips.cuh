// accumulate_strips_kernel: M <= kChannels (at most 4), N <= kStripRegions; not of double.
// Grid:   B * splits blocks of one warp. A block owns pixels_per_split consecutive pixels of one image.
// Lane:   loads V neighbouring pixels at a time, every channel of them; then walks a strip of kStripPixels of a chunk,
//         run by run, a run's sums in registers. The next chunk's pixels are under way meanwhile.
// Bytes:  reads P (M e + l) per image once; writes a table per block.
// Why:    what a label costs is shared by few channels. A pixel costs a comparison and, for each channel, a difference
//         and two additions; beginning and ending runs costs about three pixels, of one lane or of all at a time, and
//         adding eight runs to the table about four.
#pragma once

#include "arrival.cuh"
#include "softmax.cuh"
#include "strip_codes.cuh"
#include "strips_table.cuh"

namespace cas_ext {

constexpr int kStripBlocks = 12;  // on a multiprocessor, with N = 64: what shared memory allows

// Loads of labels that are under way together, of those that there are: as many as registers allow.
__device__ constexpr unsigned loads_at_once(unsigned loads, unsigned bytes) {
  const unsigned fit = 64 / bytes < 4 ? 64 / bytes : 4;
  return loads < fit ? loads : fit;
}

// Pixels of one region that a lane has walked since they began, summed about a pilot.
template <int kChannels>
struct StripRun {
  unsigned code = kNoRegion, first = 0;
  float pilot[kChannels] = {}, sum[kChannels] = {};
  float square[2] = {};  // by turns: sums of fewer terms round less

  __device__ __forceinline__ bool has_region() const { return code < kStripRegions; }

  // About the median of its first three values: one that is far off costs no digits of the others.
  __device__ __forceinline__ void begin(unsigned of, unsigned at, const StripValues<kChannels>& one,
                                        const StripValues<kChannels>& two, const StripValues<kChannels>& three) {
    code = of;
    first = at;
    square[0] = square[1] = 0;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const float low = fminf(one.of[m], two.of[m]), high = fmaxf(one.of[m], two.of[m]);
      pilot[m] = fmaxf(low, fminf(high, three.of[m]));
      sum[m] = 0;
    }
  }

  __device__ __forceinline__ void add(const StripValues<kChannels>& value, unsigned turn) {
    float of_pixel = 0;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const float d = value.of[m] - pilot[m];
      sum[m] += d;
      of_pixel += d * d;
    }
    square[turn] += of_pixel;
  }

  // As it is before pixel `end` of the strip.
  __device__ __forceinline__ void write(StripsShared<kChannels>& shared, unsigned at, unsigned end) const {
    StripValues<kChannels> values, sums;
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      values.of[m] = pilot[m];
      sums.of[m] = sum[m];
    }
    shared.pilot[at] = values;
    shared.sum[at] = sums;
    shared.square[at] = square[0] + square[1];
    shared.run[at] = code + 256 * (end - first);
  }
};

// A lane's walk along its strip. `records` runs wait to be added to the table; returns how many do afterwards.
template <int kChannels>
__device__ __forceinline__ unsigned walk_strip(StripsShared<kChannels>& shared, unsigned records) {
  constexpr unsigned kWords = kStripPixels / 4;
  const unsigned lane = threadIdx.x;
  const uint8_t* const codes = shared.code + lane * kStripPixels;
  const StripValues<kChannels>* const pixels = shared.pixel + lane * kStripPlaces;
  StripRun<kChannels> run;
#pragma unroll 1
  for (unsigned w = 0; w <= kWords; ++w) {  // at last, nothing but an end
    const uint32_t word = w < kWords ? reinterpret_cast<const uint32_t*>(codes)[w] : ~0u;  // kNoRegion
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
      const unsigned code = word >> (8 * k) & 0xff, x = 4 * w + k;
      const bool changes = code != run.code;
      if (__any_sync(kFullWarp, changes)) {
        const bool ends = changes && run.has_region();
        const unsigned ending = __ballot_sync(kFullWarp, ends);
        if (ends) run.write(shared, records + __popc(ending & ((1u << lane) - 1)), x);
        records += __popc(ending);
        if (records >= kFullRecords) {
          add_records(shared, records);
          records = 0;
        }
        if (changes && w < kWords) {
          const unsigned second = x + (x + 1 < kStripPixels && codes[x + 1] == code);
          const unsigned third = second + (x < second && x + 2 < kStripPixels && codes[x + 2] == code);
          run.begin(code, x, pixels[x], pixels[second], pixels[third]);
        }
      }
      if (k == 0 && w == kWords) return records;
      run.add(pixels[x], k % 2);
    }
  }
  return records;
}

template <class scalar_t, int kChannels, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kWarpSize, kStripBlocks) accumulate_strips_kernel(AccumulateParams p) {
  constexpr unsigned kLoads = kStripPixels / V;
  auto& shared = *reinterpret_cast<StripsShared<kChannels>*>(shared_arena());
  const int64_t N = p.shape.regions;
  const int M = static_cast<int>(p.shape.channels);
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split, rest = p.shape.pixels - begin;
  const unsigned size = static_cast<unsigned>(rest < p.pixels_per_split ? rest : p.pixels_per_split);  // select.h
  const unsigned lane = threadIdx.x;
  clear_arrivals(p, b, split);
  for (unsigned i = lane; i < N; i += kWarpSize) shared.table[i].n = 0;

  using Packs = PixelPacks<scalar_t, kInterleaved, V, kChannels, kSoftmax>;
  constexpr unsigned kHalf = kLoads / 2;  // of a chunk
  const auto load = [&](Packs(&packs)[kHalf], unsigned first) {
    const unsigned x = first + thread_again() * V;
    const int64_t pixel_stride = kInterleaved ? p.input.pixel_stride : 1;
    const scalar_t* const row =
        static_cast<const scalar_t*>(p.input.data) + b * p.input.image_stride + (begin + x) * pixel_stride;
    const auto load_rows = [&](auto exists) {
#pragma unroll
      for (int m = 0; m < Packs::kRows; ++m) {
#pragma unroll
        for (unsigned i = 0; i < kHalf; ++i) {
          const unsigned further = i * kWarpSize * V;
          if (exists(m, further)) {
            packs[i].load_row(m, row + m * p.input.channel_stride + further * pixel_stride);
          } else {
            packs[i].clear_row(m);
          }
        }
      }
    };
    if (first + kStripChunk / 2 <= size && (Packs::kStretch || M == kChannels)) {
      load_rows([](int, unsigned) { return true; });
    } else {
      load_rows([&](int m, unsigned further) { return (Packs::kStretch || m < M) && x + further < size; });
    }
  };
  const auto store = [&](const Packs(&packs)[kHalf], unsigned half) {
#pragma unroll
    for (unsigned i = 0; i < kHalf; ++i) {
      float s[V][kChannels];
      packs[i].unpack(s);
      const unsigned x = half * (kStripChunk / 2) + (i * kWarpSize + lane) * V;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if constexpr (kSoftmax) softmax(s[k]);
        StripValues<kChannels> value;
        memcpy(&value, s[k], sizeof(value));
        shared.pixel[x + x / kStripPixels + k] = value;
      }
    }
  };

  Packs ahead[kHalf];
  load(ahead, 0);
  unsigned records = 0;
  long long first_invalid = kNoPixel;  // of the block, where its chunk begins
  for (unsigned chunk = 0; chunk < size; chunk += kStripChunk) {
    Packs now[kHalf];
    load(now, chunk + kStripChunk / 2);
    __syncwarp();  // the strips before have been walked
    store(ahead, 0);
    visit_labels(p.target, [&](const auto* stored) {
      using label_t = std::remove_cv_t<std::remove_reference_t<decltype(*stored)>>;
      const unsigned place = thread_again() * V;
      const LabelCodes<label_t> range{N, p.target.ignore_index};
      bool invalid = false;
      const auto* const from = stored + b * p.shape.pixels + begin + chunk + place;
      constexpr unsigned kAtOnce = loads_at_once(kLoads, V * sizeof(label_t));
#pragma unroll 1
      for (unsigned first = 0; first < kLoads * kWarpSize * V; first += kAtOnce * kWarpSize * V) {
        Pack<label_t, V> labels[kAtOnce];
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) {
          const unsigned further = first + i * kWarpSize * V;
          if (chunk + place + further < size) labels[i] = load_pack<V>(from + further);
        }
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) {
          const unsigned further = first + i * kWarpSize * V, x = chunk + place + further;
          Pack<uint8_t, V> codes;
          memset(&codes, kNoRegion, sizeof(codes));
          if (x < size && range.look_up(labels[i], codes)) invalid = true;
          typename WordOf<V>::type word;
          memcpy(&word, &codes, sizeof(word));
          *reinterpret_cast<typename WordOf<V>::type*>(shared.code + place + further) = word;
        }
      }
      if (invalid && first_invalid == kNoPixel) first_invalid = chunk;
    });
    store(now, 1);
    load(ahead, chunk + kStripChunk);
    __syncwarp();
    records = walk_strip(shared, records);
  }
  if (records > 0) add_records(shared, records);
  __syncwarp();
  write_moments(p, shared);
  first_invalid = warp_min(first_invalid);
  if (first_invalid != kNoPixel) {
    const int64_t first = begin + first_invalid, label = b * p.shape.pixels + first;
    const unsigned left = size - static_cast<unsigned>(first_invalid), pixels = left < kStripChunk ? left : kStripChunk;
    first_invalid = first + first_invalid_of(p.target, N, label, pixels);
  }
  if (lane == 0) p.partial_invalid[blockIdx.x] = first_invalid;
}

}  // namespace cas_ext
