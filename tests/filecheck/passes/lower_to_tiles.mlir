// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles" | filecheck %s

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[4096, 16384], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[16384, 8192], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 8, 8, 1], tile [256, 256, 64], order "gmnk", slots 2>} : !layer.tensor<[4096, 8192], bf16>
    layer.return([%y]) at "m"
  }
}

// A core has 512 rows and 1024 columns in blocks of 256 x 256, and all 16384 of K in steps of 64.
// Loops over blocks of the result, K innermost; what is loaded in a loop has two slots.
// CHECK:      tile.kernel() {cores = 64, op_name = "layer.matmul"} at "proj" {
// CHECK-NEXT:   tile.for m < <2> at "proj" {
// CHECK-NEXT:     tile.for n < <4> at "proj" {
// CHECK-NEXT:       [[ACC:%[0-9]+]] = tile.alloc() {{.*}} : !tile.buffer<{{.*}}, f32>
// CHECK-NEXT:       tile.for k < <256> at "proj" {
// CHECK-NEXT:         [[A:%[0-9]+]] = tile.alloc() {slots = 2}
// CHECK-NEXT:         tile.load({{.*}}, [[A]])
// CHECK-NEXT:         [[B:%[0-9]+]] = tile.alloc() {slots = 2}
// CHECK-NEXT:         tile.load({{.*}}, [[B]])
// CHECK-NEXT:         tile.mma([[ACC]], [[A]], [[B]]) {{.*}} accumulate = <k>
// CHECK-NEXT:       }
// CHECK:            tile.vector({{\[}}[[ACC]]], [{{.*}}], []) {kind = #tile.convert
// CHECK-NEXT:       tile.store(
