// RUN: pmc opt %s -p "combine-collectives" | filecheck %s

builtin.module attributes {dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[4, 64], bf16>, %y: !layer.tensor<[4, 8], f8E4M3FN>, %w: !layer.tensor<[64, 16], bf16>, %p: !layer.tensor<[8, 16], bf16, #dist.partial<tp>>, %q: !layer.tensor<[8, 16], bf16, #dist.partial<tp>>):
    %a = dist.all_gather(%x) {axis = "tp", dim = 0} at "b.q.norm" : !layer.tensor<[8, 64], bf16>
    %m = layer.matmul(%a, %w) at "b.q.proj" : !layer.tensor<[8, 16], bf16>
    %b = dist.all_gather(%y) {axis = "tp", dim = 0} at "b.q.rope" : !layer.tensor<[8, 8], f8E4M3FN>
    %c = dist.all_gather(%m) {axis = "tp", dim = 1} at "b.other_dim" : !layer.tensor<[8, 32], bf16>
    %r = dist.all_reduce(%p) {axis = "tp"} at "b.u" : !layer.tensor<[8, 16], bf16>
    %s = layer.add(%r, %m) at "b.add" : !layer.tensor<[8, 16], bf16>
    %t = dist.all_reduce(%q) {axis = "tp"} at "b.v" : !layer.tensor<[8, 16], bf16>
    %d = dist.all_gather(%s) {axis = "tp", dim = 0} at "b.needs_the_sum" : !layer.tensor<[16, 16], bf16>
    layer.return([%b, %c, %d, %t]) at "m"
  }
}

// Two gathers of other elements become one, and the matmul that needs the first stands behind it.
// CHECK:      [[A:%[0-9a-z_]+]], [[B:%[0-9a-z_]+]] = dist.collective_group([%{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}]) {collective = #dist.all_gather<tp, dim = 0>} at "b.q" : !layer.tensor<[8, 64], bf16>, !layer.tensor<[8, 8], f8E4M3FN>
// CHECK-NEXT: [[M:%[0-9a-z_]+]] = layer.matmul([[A]], %{{[0-9a-z_]+}})
// A gather of another dim stays alone.
// CHECK-NEXT: dist.all_gather([[M]]) {dim = 1, axis = "tp"} at "b.other_dim"
// CHECK-NEXT: [[R:%[0-9a-z_]+]], [[T:%[0-9a-z_]+]] = dist.collective_group([%{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}]) {collective = #dist.all_reduce<tp>} at "b"
// CHECK-NEXT: [[S:%[0-9a-z_]+]] = layer.add([[R]], [[M]])
// What needs the first gather cannot be gathered with it.
// CHECK-NEXT: dist.all_gather([[S]]) {dim = 0, axis = "tp"} at "b.needs_the_sum"
