// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,allocate-lmem,allocate-dram,emit-g5" | filecheck %s
// RUN: pmc opt %s --chip sg2262 -p "emit-g5" --verify-diagnostics | filecheck %s --check-prefix=LEVEL

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[64, 4096], bf16>):
    %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
    %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 4096], order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "m"
  }
}

// Load, multiply, convert, store: each waits for the command whose result it reads, and for no other; then all cores wait for all.
// CHECK:      g5.program() {cores = 64, op_name = "layer.matmul"} at "proj" {
// CHECK-NEXT:   g5.gdma {direction = "load", dram = <0>, lmem = <131072>, shape = [<64>, <4096>]{{.*}}} at "proj"
// CHECK-NEXT:   g5.gdma {direction = "load", dram = <core*32 + 524288>, {{.*}}} at "proj"
// CHECK-NEXT:   g5.tiu {{.*}} m = <64>, n = <16>, k = <4096>, accumulate = <0>, transpose_b = false} after [gdma-0] at "proj"
// CHECK-NEXT:   g5.vec {kind = #tile.convert, {{.*}}} after [tiu-0] at "proj"
// CHECK-NEXT:   g5.gdma {direction = "store", dram = <core*32 + 8912896>, {{.*}}} after [vec-0] at "proj"
// CHECK-NEXT:   g5.barrier() at "proj"
// CHECK-NEXT: }

// LEVEL: emit-g5: the module is at the layer level, this pass reads the tile level
