// RUN: pmc opt %s -p "match-silicon{host=graph}" | filecheck %s

builtin.module attributes {dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch*q_len, 64], bf16>, %z: !layer.tensor<[batch*q_len, 64], bf16>):
    %a = layer.weight() {axes = ["", "heads"]} at "b.q.weight" : !layer.tensor<[64, 32], bf16>
    %q = layer.matmul(%x, %a) at "b.q" : !layer.tensor<[batch*q_len, 32], bf16>
    %b = layer.weight() {axes = ["", "heads"]} at "b.k.weight" : !layer.tensor<[64, 16], bf16>
    %k = layer.matmul(%x, %b) at "b.k" : !layer.tensor<[batch*q_len, 16], bf16>
    %o = layer.weight() {axes = ["heads", ""]} at "b.o.weight" : !layer.tensor<[32, 64], bf16>
    %p = layer.matmul(%q, %o) at "b.o" : !layer.tensor<[batch*q_len, 64], bf16, #dist.partial<tp>>
    %s = dist.all_reduce(%p) {axis = "tp"} at "b.o" : !layer.tensor<[batch*q_len, 64], bf16>
    %r = layer.add(%z, %s) at "b.residual" : !layer.tensor<[batch*q_len, 64], bf16>
    %g = layer.weight() {axes = [""]} at "b.norm.weight" : !layer.tensor<[64], bf16>
    %n = layer.rms_norm(%r, %g) {eps = 1.0e-05, group = 64} at "b.norm" : !layer.tensor<[batch*q_len, 64], bf16>
    layer.return([%k, %r, %n]) at "m"
  }
}

// The host is an op of its own, with the source of its numbers.
// CHECK:      silicon.host() {step_us = 6.0, launch_us = 0.0, source = "NVIDIA,
// Two products of one value are one query of one matrix; its columns are those of both, and the second weight moves up.
// CHECK:      layer.weight() {axes = ["", "heads"]} at "b.q.weight"
// CHECK-NEXT: layer.weight() {axes = ["", "heads"]} at "b.k.weight"
// CHECK-NEXT: [[Q:%[0-9a-z_]+]], [[K:%[0-9a-z_]+]] = silicon.query([%{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}, %{{[0-9a-z_]+}}]) {workload = #silicon.workload<gemm, m = batch*q_len, n = 48, k = 64, gemm_dtype = "bfloat16">} at "b.q"
// CHECK-NEXT:   layer.matmul({{.*}}) at "b.q"
// CHECK-NEXT:   layer.matmul({{.*}}) at "b.k"
// CHECK-NEXT:   layer.yield
// CHECK-NEXT: }
// CHECK:      silicon.query([[[Q]], {{.*}}]) {workload = #silicon.workload<gemm, m = batch*q_len, n = 64, k = 32, gemm_dtype = "bfloat16">} at "b.o"
// Without a topology a board has one chip, so that NCCL does it: two bytes an element.
// CHECK:      silicon.exchange({{.*}}) {workload = #silicon.workload<nccl, num_gpus = 2, message_size = batch*q_len*64, op_name = "all_reduce", nccl_dtype = "half">} at "b.o"
// A residual and its norm are one launch: two rows in and two out, and the gain.
// CHECK:      [[R:%[0-9a-z_]+]], [[N:%[0-9a-z_]+]] = silicon.query({{.*}}) {workload = #silicon.workload<memory, bytes = batch*q_len*512 + 128>} at "b.residual"
// CHECK-NEXT:   layer.add
// CHECK-NEXT:   layer.rms_norm
// CHECK:      layer.return([[[K]], [[R]], [[N]]])
