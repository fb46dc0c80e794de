// RUN: pmc opt %s -p "quantize{weights=f8E4M3FN activations=f8E4M3FN}" | filecheck %s
// RUN: pmc opt %s -p "quantize{weights=f8E4M3FN keep=\"*.down_proj.weight\"}" | filecheck %s --check-prefix=KEEP

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch*q_len, 64], bf16>):
    %y = layer.repeat 4 from 0 of 4 (%h = %x) at "blocks" : !layer.tensor<[batch*q_len, 64], bf16> {
      %wu = layer.weight() {axes = ["", "ffn"]} at "blocks.up_proj.weight" : !layer.tensor<[64, 128], bf16>
      %u = layer.matmul(%h, %wu) at "blocks.up_proj" : !layer.tensor<[batch*q_len, 128], bf16>
      %wd = layer.weight() {axes = ["ffn", ""]} at "blocks.down_proj.weight" : !layer.tensor<[128, 64], bf16>
      %d = layer.matmul(%u, %wd) at "blocks.down_proj" : !layer.tensor<[batch*q_len, 64], bf16>
      %r = layer.add(%h, %d) at "blocks.residual" : !layer.tensor<[batch*q_len, 64], bf16>
      layer.yield([%r]) at "blocks"
    }
    layer.return([%y]) at "m"
  }
}

// Activations are converted before the product that reads them, results stay in the model's type.
// CHECK:      [[Q:%[0-9a-z]+]] = layer.quantize(%h) {{.*}} : !layer.tensor<[batch*q_len, 64], f8E4M3FN>
// CHECK-NEXT: %wu = layer.weight() {{.*}} : !layer.tensor<[64, 128], f8E4M3FN>
// CHECK-NEXT: %u = layer.matmul([[Q]], %wu) at "blocks.up_proj" : !layer.tensor<[batch*q_len, 128], bf16>
// CHECK-NEXT: [[P:%[0-9a-z]+]] = layer.quantize(%u) {{.*}} : !layer.tensor<[batch*q_len, 128], f8E4M3FN>
// CHECK-NEXT: %wd = layer.weight() {{.*}} : !layer.tensor<[128, 64], f8E4M3FN>
// CHECK-NEXT: %d = layer.matmul([[P]], %wd)
// CHECK-NEXT: %r = layer.add(%h, %d)

// KEEP:       %wu = layer.weight() {{.*}} : !layer.tensor<[64, 128], f8E4M3FN>
// KEEP-NOT:   layer.quantize
// KEEP:       %wd = layer.weight() {{.*}} : !layer.tensor<[128, 64], bf16>
