// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,allocate-lmem,allocate-dram,emit-g5,unroll-commands{core=5}" | filecheck %s

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 4096], order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// Three commands of GDMA; the addresses are those of core 5: 524288 + 5*32 and 8912896 + 5*32.
// CHECK:      g5.queue() {engine = "tiu", core = 5, {{.*}} 1 rows
// CHECK-NEXT: g5.queue() {engine = "gdma", core = 5, {{.*}} 3 rows, {{.*}} load 524448 {{.*}} store 8913056
// CHECK-NEXT: g5.queue() {engine = "vec", core = 5, {{.*}} 1 rows
