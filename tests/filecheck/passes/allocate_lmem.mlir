// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,allocate-lmem" | filecheck %s

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 4096], order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// Row blocks come first: 64 x 4096 bf16 are 512 KiB = 524288 bytes.
// CHECK:     tile.kernel
// CHECK:     tile.alloc() {slots = 1, address = 0} {{.*}} : !tile.buffer<[64, 4096], bf16>
// CHECK:     tile.alloc() {slots = 1, address = 524288} {{.*}} : !tile.buffer<[64, 16], f32>
// CHECK-NOT: tile.alloc() {slots = {{[0-9]+}}} at
