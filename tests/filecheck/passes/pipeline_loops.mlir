// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,pipeline-loops" | filecheck %s
// RUN: pmc opt %s --chip sg2262 -p "lower-to-tiles,pipeline-loops{enabled=false}" | filecheck %s --check-prefix OFF

builtin.module {
  layer.program() {sym_name = "a", phase = "decode"} at "a" {
  ^bb0(%q: !layer.tensor<[64, 1024], bf16>, %k: !layer.tensor<[64, 1024, 64], bf16>):
    %y = layer.attention([%q], [%k], %k) {qk_dims = [64], v_dim = 64, q_len = <1>, scale = 0.125, causal = false} at "attention" attributes {tile.plan = #tile.plan<cores [64, 1, 1], tile [1, 16, 256], order "pus", slots 2>} : !layer.tensor<[64, 1024], bf16>
    layer.return([%y]) at "a"
  }
}

// The softmax and the values of a tile of keys come behind the scores of the next one; keys and scores get a slot more.
// CHECK:      tile.for s < <4> at "attention" {
// CHECK-NEXT:   [[KV:%\d+]] = tile.alloc() {slots = 3, extra = 1} {{.*}} : !tile.buffer<[256, 64], bf16>
// CHECK-NEXT:   tile.load({{%\d+}}, [[KV]])
// CHECK-NEXT:   [[SCORES:%\d+]] = tile.alloc() {slots = 2, extra = 1} {{.*}} : !tile.buffer<[16, 256], f32>
// CHECK-NEXT:   tile.mma([[SCORES]], {{%\d+}}, [[KV]])
// CHECK-NEXT:   [[P:%\d+]] = tile.alloc() {slots = 1} {{.*}} : !tile.buffer<[16, 256], bf16>
// CHECK-NEXT:   tile.for s_late < <min(s, 1)> at "attention" {
// CHECK-NEXT:     [[OLDKV:%\d+]] = tile.previous([[KV]])
// CHECK-NEXT:     [[OLD:%\d+]] = tile.previous([[SCORES]])
// CHECK-NEXT:     tile.vector({{\[}}[[OLD]]], {{\[}}[[P]]], {{.*}}softmax_step<{{.*}}key = s*256 - 256>
// CHECK-NEXT:     tile.mma({{%\d+}}, [[P]], [[OLDKV]])
// CHECK-NEXT:   }
// CHECK-NEXT:   tile.for s_last < <min(max(s - 2, 0), 1)> at "attention" {
// CHECK-NEXT:     tile.vector({{\[}}[[SCORES]]], {{\[}}[[P]]], {{.*}}softmax_step<{{.*}}key = s*256>
// CHECK-NEXT:     tile.mma({{%\d+}}, [[P]], [[KV]])

// OFF-NOT: tile.previous
