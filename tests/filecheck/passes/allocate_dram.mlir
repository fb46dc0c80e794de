// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,allocate-dram" | filecheck %s

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 4096], order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// 64 x 4096 bf16 are 524288 bytes, 4096 x 1024 bf16 are 8388608 more.
// CHECK:      tile.global() {kind = "input", layers = false, address = 0} at "x"
// CHECK-NEXT: tile.global() {kind = "weight", layers = false, {{.*}}address = 524288} at "proj.weight"
// CHECK-NEXT: tile.global() {kind = "output", layers = false, address = 8912896} at "proj"
