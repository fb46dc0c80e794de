// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,prefetch-weights" | filecheck %s
// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,prefetch-weights,allocate-lmem,allocate-dram,emit-g5" | filecheck %s --check-prefix G5
// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,prefetch-weights{enabled=false}" | filecheck %s --check-prefix OFF

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 1024], bf16>):
    %v = layer.weight() {axes = ["", ""]} at "up.weight" : !layer.tensor<[1024, 1024], bf16>
    %h = layer.matmul(%x, %v) at "up" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 256], order "gmnk", slots 2, multicast [a, b]>} : !layer.tensor<[64, 1024], bf16>
    %w = layer.weight() {axes = ["", ""]} at "down.weight" : !layer.tensor<[1024, 512], bf16>
    %y = layer.matmul(%h, %w) at "down" attributes {tile.plan = #tile.plan<cores [1, 1, 32, 1], tile [64, 16, 256], order "gmnk", slots 2, multicast [a, b]>} : !layer.tensor<[64, 512], bf16>
    layer.return([%y]) at "m"
  }
}

// A block of 256 x 16 comes behind the last products of "up", on the cores that "down" has.
// CHECK:      [[HELD:%\d+]] = tile.alloc() {slots = 1, address = 2088960} at "down" : !tile.buffer<[256, 16], bf16>
// CHECK:      tile.kernel() {cores = 64, op_name = "layer.matmul"} at "up" {
// CHECK:        tile.for k < <4> at "up" {
// CHECK:          tile.mma(
// CHECK-NEXT:     tile.for k_ahead < <{{.*}}core{{.*}}> at "down" {
// CHECK-NEXT:       tile.load({{%\d+}}, [[HELD]]) {offsets = [<0>, <core*16>], sizes = [<256>, <16>]
// CHECK-NEXT:     }
// CHECK-NEXT:   }
// CHECK-NEXT:   {{%\d+}} = tile.alloc()
// CHECK-NEXT:   tile.vector(
// CHECK-NEXT:   tile.store(
// CHECK:      tile.kernel() {cores = 32, op_name = "layer.matmul"} at "down" {
// CHECK:          [[OWN:%\d+]] = tile.alloc() {slots = 2} at "down" : !tile.buffer<[256, 16], bf16>
// CHECK-NEXT:     tile.for k_later < <min(k, 1)> at "down" {
// CHECK-NEXT:       tile.load({{%\d+}}, [[OWN]]) {offsets = [<k*256>, <core*16>]
// CHECK-NEXT:     }
// CHECK-NEXT:     [[NOW:%\d+]] = tile.handed_over([[HELD]], [[OWN]]) {later = <min(k, 1)>} at "down" : !tile.buffer<[256, 16], bf16>
// CHECK-NEXT:     tile.mma({{%\d+}}, {{%\d+}}, [[NOW]])

// G5:      g5.program() {cores = 64, op_name = "layer.matmul", hands_over = [#g5.span<2088960, 8192>]} at "up" {
// G5:      g5.program() {cores = 32, op_name = "layer.matmul", takes = [#g5.span<2088960, 8192>]} at "down" {

// OFF-NOT: tile.handed_over
