// RUN: pmc opt %s -p "fuse-rows" | filecheck %s
// RUN: pmc opt %s -p "fuse-rows{enabled=false}" | filecheck %s --check-prefix OFF

builtin.module attributes {dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[4, 64], bf16>, %d: !layer.tensor<[4, 64], bf16>, %w: !layer.tensor<[64], bf16>):
    %r = layer.add(%x, %d) at "residual" : !layer.tensor<[4, 64], bf16>
    %n = layer.rms_norm(%r, %w) {eps = 1.0e-05, group = 64} at "norm" : !layer.tensor<[4, 64], bf16>
    %q = layer.quantize(%n) at "norm.quantize" : !layer.tensor<[4, 64], f8E4M3FN>
    %a = layer.silu_mul(%q, %q) at "act" : !layer.tensor<[4, 64], bf16>
    %b = layer.quantize(%a) at "act.quantize" : !layer.tensor<[4, 64], f8E4M3FN>
    %g = dist.all_gather(%b) {axis = "tp", dim = 1} at "gathered" : !layer.tensor<[4, 128], f8E4M3FN>
    %s = layer.add(%r, %a) at "again" : !layer.tensor<[4, 64], bf16>
    layer.return([%g, %s]) at "m"
  }
}

// CHECK:      [[R:%[0-9a-z_]+]], [[Q:%[0-9a-z_]+]] = layer.add_rms_norm(%{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}) {eps = 1.0e-05} at "norm" : !layer.tensor<[4, 64], bf16>, !layer.tensor<[4, 64], f8E4M3FN>
// What another op reads too is converted apart.
// CHECK-NEXT: [[A:%[0-9a-z_]+]] = layer.silu_mul([[Q]], [[Q]]) at "act" : !layer.tensor<[4, 64], bf16>
// CHECK-NEXT: layer.quantize([[A]]) at "act.quantize"
// CHECK-NEXT: dist.all_gather
// CHECK-NEXT: layer.add([[R]], [[A]]) at "again"

// OFF:      layer.add(
// OFF-NEXT: layer.rms_norm(
// OFF-NEXT: layer.quantize(
