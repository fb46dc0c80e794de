// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,allocate-lmem" | filecheck %s

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 4096], order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// The accumulator comes first, 64 x 16 f32; the operands of the multiplication start in another bank, of 2 MiB / 16.
// CHECK:     tile.kernel
// CHECK:     tile.alloc() {slots = 1, address = 0} {{.*}} : !tile.buffer<[64, 16], f32>
// CHECK:     tile.alloc() {slots = 1, address = 131072} {{.*}} : !tile.buffer<[64, 4096], bf16>
// CHECK-NOT: tile.alloc() {slots = {{[0-9]+}}} at
