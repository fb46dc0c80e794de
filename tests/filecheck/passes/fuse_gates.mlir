// RUN: pmc opt %s -p "fuse-gates" | filecheck %s
// RUN: pmc opt %s -p "fuse-gates{enabled=false}" | filecheck %s --check-prefix OFF

builtin.module attributes {dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[4, 64], bf16>, %e: !layer.tensor<[2, 4, 64], bf16>):
    %wg = layer.weight() {axes = ["", "ffn"]} at "gate_proj.weight" : !layer.tensor<[64, 32], bf16>
    %wu = layer.weight() {axes = ["", "ffn"]} at "up_proj.weight" : !layer.tensor<[64, 32], bf16>
    %g = layer.matmul(%x, %wg) at "gate_proj" : !layer.tensor<[4, 32], bf16>
    %u = layer.matmul(%x, %wu) at "up_proj" : !layer.tensor<[4, 32], bf16>
    %y = layer.silu_mul(%g, %u) at "silu_mul" : !layer.tensor<[4, 32], f8E4M3FN>
    %vg = layer.weight() {axes = ["expert", "", ""]} at "experts.gate_proj.weight" : !layer.tensor<[2, 64, 32], bf16>
    %vu = layer.weight() {axes = ["expert", "", ""]} at "experts.up_proj.weight" : !layer.tensor<[2, 64, 32], bf16>
    %h = layer.grouped_matmul(%e, %vg) at "experts.gate_proj" : !layer.tensor<[2, 4, 32], bf16>
    %v = layer.grouped_matmul(%e, %vu) at "experts.up_proj" : !layer.tensor<[2, 4, 32], bf16>
    %z = layer.silu_mul(%h, %v) at "experts.silu_mul" : !layer.tensor<[2, 4, 32], bf16>
    layer.return([%y, %z]) at "m"
  }
}

// CHECK:      ^bb0([[X:%[0-9a-z_]+]]: !layer.tensor<[4, 64], bf16>, [[E:%[0-9a-z_]+]]: !layer.tensor<[2, 4, 64], bf16>):
// CHECK-NEXT: [[WG:%[0-9a-z_]+]] = layer.weight() {axes = ["", "ffn"]} at "gate_proj.weight"
// CHECK-NEXT: [[WU:%[0-9a-z_]+]] = layer.weight() {axes = ["", "ffn"]} at "up_proj.weight"
// CHECK-NEXT: [[Y:%[0-9a-z_]+]] = layer.gated_matmul([[X]], [[WG]], [[WU]]) at "silu_mul" : !layer.tensor<[4, 32], f8E4M3FN>
// CHECK-NEXT: [[VG:%[0-9a-z_]+]] = layer.weight() {{.*}} at "experts.gate_proj.weight"
// CHECK-NEXT: [[VU:%[0-9a-z_]+]] = layer.weight() {{.*}} at "experts.up_proj.weight"
// CHECK-NEXT: [[Z:%[0-9a-z_]+]] = layer.gated_matmul([[E]], [[VG]], [[VU]]) at "experts.silu_mul" : !layer.tensor<[2, 4, 32], bf16>
// CHECK-NEXT: layer.return({{\[}}[[Y]], [[Z]]]) at "m"

// OFF:     layer.matmul(
// OFF:     layer.matmul(
// OFF:     layer.silu_mul(
// OFF:     layer.grouped_matmul(
// OFF:     layer.grouped_matmul(
// OFF:     layer.silu_mul(
