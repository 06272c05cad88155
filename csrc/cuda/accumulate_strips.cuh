// accumulate_strips_kernel: M <= kChannels (at most 4), N <= kStripRegions; not of double.
// Grid:   B * splits blocks of one warp. A block owns pixels_per_split consecutive pixels of one image.
// Lane:   loads V neighbouring pixels at a time, every channel of them; then walks a strip of 16 pixels of a chunk, or
//         32 of 16-bit values, run by run, a run's sums in registers. The next chunk's pixels are under way meanwhile.
// Bytes:  reads P (M e + l) per image once; writes a table per block.
// Why:    what a label costs is shared by few channels. A pixel costs a comparison and, for each channel, a difference
//         and two additions; beginning and ending runs costs about three pixels, of one lane or of all at a time, and
//         adding 32 runs to the table about eight.
#pragma once

#include "arrival.cuh"
#include "softmax.cuh"
#include "strip_codes.cuh"
#include "strips_table.cuh"

namespace cas_ext {

// What pixels wait as for their lane: as they are stored, unless they are loaded one by one, which takes registers.
template <class scalar_t, int V, bool kSoftmax>
using strip_value = std::conditional_t<(V > 1) && !kSoftmax, scalar_t, float>;

constexpr int kStripBlocks = 12;  // on a multiprocessor: what registers allow; with N = 64, shared memory allows 13

// Labels of a lane that are under way together: as many as `room` for them allows, and loads of so many neighbours.
struct LabelLoads {
  unsigned neighbours, at_once;

  __device__ constexpr LabelLoads(unsigned V, unsigned pixels, unsigned bytes, unsigned room)
      : neighbours(V * bytes <= room ? V : room / bytes), at_once(room / (neighbours * bytes)) {
    const unsigned loads = pixels / neighbours, most = loads < 4 ? loads : 4;
    if (at_once > most) at_once = most;
  }
};

// Pixels of one region that a lane has walked since they began, summed about a pilot.
template <int kChannels>
struct StripRun {
  unsigned code = kNoRegion, first = 0;
  float pilot[kChannels] = {}, sum[kChannels] = {};
  float square[2] = {};  // by turns: sums of fewer terms round less

  __device__ __forceinline__ bool has_region() const { return code < kStripRegions; }

  // About the median of three values: those that are far off cost no digits of the others.
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
  __device__ __forceinline__ void write(StripRecords<kChannels>& shared, unsigned at, unsigned end) const {
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
template <int kChannels, class value_t>
__device__ __forceinline__ unsigned walk_strip(StripsShared<kChannels, value_t>& shared, unsigned records) {
  using Strip = StripOf<value_t>;
  constexpr unsigned kWords = Strip::kPixels / 4;
  constexpr uint32_t kBeyond = 0x7f7f7f7fu;  // no code looks like this: of no region, they have bit 7
  const unsigned lane = threadIdx.x;
  const uint32_t* const codes = reinterpret_cast<const uint32_t*>(shared.code + lane * Strip::kPixels);
  const StripValues<kChannels, value_t>* const pixels = shared.pixel + lane * Strip::kPlaces;
  StripRun<kChannels> run;
  uint32_t word[3] = {codes[0], codes[1], codes[2]};  // of this pixel, and of those that follow
#pragma unroll 1
  for (unsigned w = 0; w <= kWords; ++w) {  // at last, nothing but an end
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
      const auto code_of = [&](unsigned further) {
        return word[(k + further) / 4] >> (8 * ((k + further) % 4)) & 0xff;
      };
      const unsigned code = code_of(0), x = 4 * w + k;
      const bool changes = code != run.code;
      if (__any_sync(kFullWarp, changes)) {
        const bool ends = changes && run.has_region();
        const unsigned ending = __ballot_sync(kFullWarp, ends);
        if (ends) run.write(shared.records, records + __popc(ending & ((1u << lane) - 1)), x);
        records += __popc(ending);
        if (records >= kFullRecords) {
          add_records(shared.records, records);
          records = 0;
        }
        if (changes && w < kWords) {
          const auto like = [&](unsigned far, unsigned near) {  // a pixel of the region so far on, or so near
            return x + (code_of(far) == code ? far : code_of(near) == code ? near : 0);
          };
          run.begin(code, x, load_values(pixels + x), load_values(pixels + like(4, 1)),
                    load_values(pixels + like(8, 2)));
        }
      }
      if (k == 0 && w == kWords) return records;
      run.add(load_values(pixels + x), k % 2);
    }
    word[0] = word[1];
    word[1] = word[2];
    word[2] = w + 3 < kWords ? codes[w + 3] : kBeyond;
  }
  return records;
}

template <class scalar_t, int kChannels, int V, bool kInterleaved, bool kSoftmax>
__global__ void __launch_bounds__(kWarpSize, kStripBlocks) accumulate_strips_kernel(AccumulateParams p) {
  using value_t = strip_value<scalar_t, V, kSoftmax>;
  using Strip = StripOf<value_t>;
  constexpr unsigned kLoads = Strip::kPixels / V, kChunk = Strip::kChunk;
  auto& shared = *reinterpret_cast<StripsShared<kChannels, value_t>*>(shared_arena());
  const int64_t N = p.shape.regions;
  const int M = static_cast<int>(p.shape.channels);
  const auto [b, split] = block_place(p.splits);
  const int64_t begin = split * p.pixels_per_split, rest = p.shape.pixels - begin;
  const unsigned size = static_cast<unsigned>(rest < p.pixels_per_split ? rest : p.pixels_per_split);  // select.h
  const unsigned lane = threadIdx.x;
  clear_arrivals(p, b, split);
  for (unsigned i = lane; i < N; i += kWarpSize) shared.records.table[i].sums.n = 0;

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
    if (first + kChunk / 2 <= size && (Packs::kStretch || M == kChannels)) {
      load_rows([](int, unsigned) { return true; });
    } else {
      load_rows([&](int m, unsigned further) { return (Packs::kStretch || m < M) && x + further < size; });
    }
  };
  const auto store = [&](const Packs(&packs)[kHalf], unsigned half) {
#pragma unroll
    for (unsigned i = 0; i < kHalf; ++i) {
      value_t s[V][kChannels];
      packs[i].unpack(s);
      const unsigned x = half * (kChunk / 2) + (i * kWarpSize + lane) * V;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if constexpr (kSoftmax) softmax(s[k]);
        typename WordOf<sizeof(s[k])>::type word;
        memcpy(&word, s[k], sizeof(word));
        *reinterpret_cast<decltype(word)*>(shared.pixel + x + x / Strip::kPixels + k) = word;
      }
    }
  };

  Packs ahead[kHalf];
  load(ahead, 0);
  unsigned records = 0;
  long long first_invalid = kNoPixel;  // of the block, where its chunk begins
  for (unsigned chunk = 0; chunk < size; chunk += kChunk) {
    Packs now[kHalf];
    load(now, chunk + kChunk / 2);
    __syncwarp();  // the strips before have been walked
    store(ahead, 0);
    visit_labels(p.target, [&](const auto* stored) {
      using label_t = std::remove_cv_t<std::remove_reference_t<decltype(*stored)>>;
      constexpr unsigned kRoom = sizeof(value_t) < sizeof(float) ? 16 : 64;  // bytes: registers that are left
      constexpr LabelLoads kLabels(V, Strip::kPixels, sizeof(label_t), kRoom);
      constexpr unsigned L = kLabels.neighbours, kAtOnce = kLabels.at_once;
      const unsigned place = thread_again() * L;
      const LabelCodes<label_t> range{N, p.target.ignore_index};
      bool invalid = false;
      const auto* const from = stored + b * p.shape.pixels + begin + chunk + place;
#pragma unroll 1
      for (unsigned first = 0; first < kChunk; first += kAtOnce * kWarpSize * L) {
        Pack<label_t, L> labels[kAtOnce];
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) {
          const unsigned further = first + i * kWarpSize * L;
          if (chunk + place + further < size) labels[i] = load_pack<L>(from + further);
        }
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) {
          const unsigned further = first + i * kWarpSize * L, x = chunk + place + further;
          Pack<uint8_t, L> codes;
          memset(&codes, kNoRegion, sizeof(codes));
          if (x < size && range.look_up(labels[i], codes)) invalid = true;
          typename WordOf<L>::type word;
          memcpy(&word, &codes, sizeof(word));
          *reinterpret_cast<typename WordOf<L>::type*>(shared.code + place + further) = word;
        }
      }
      if (invalid && first_invalid == kNoPixel) first_invalid = chunk;
    });
    store(now, 1);
    load(ahead, chunk + kChunk);
    __syncwarp();
    records = walk_strip(shared, records);
  }
  if (records > 0) add_records(shared.records, records);
  __syncwarp();
  write_moments(p, shared.records);
  first_invalid = warp_min(first_invalid);
  if (first_invalid != kNoPixel) {
    const int64_t first = begin + first_invalid, label = b * p.shape.pixels + first;
    const unsigned left = size - static_cast<unsigned>(first_invalid), pixels = left < kChunk ? left : kChunk;
    first_invalid = first + first_invalid_of(p.target, N, label, pixels);
  }
  if (lane == 0) p.partial_invalid[blockIdx.x] = first_invalid;
}

}  // namespace cas_ext
