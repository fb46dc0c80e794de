// RUN: pmc opt %s -p "annotate-shardings{tp=2 dp=4},insert-collectives,localize" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{tp=2},localize" --verify-diagnostics | filecheck %s --check-prefix=EARLY

builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%t: !layer.tensor<[batch*q_len], i32>):
    %we = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[256, 64], bf16>
    %x = layer.embedding(%t, %we) at "embed" : !layer.tensor<[batch*q_len, 64], bf16>
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

// One rank holds a quarter of the sequences, half of the vocabulary and half of the ffn width.
// CHECK:      ^bb0(%t: !layer.tensor<[ceildiv(batch, 4)*q_len], i32>):
// CHECK:      %we = layer.weight() {{.*}} attributes {dist.sharding = #dist.sharding<{{\[\[}}tp], []]>} : !layer.tensor<[128, 64], bf16>
// CHECK-NEXT: %x = layer.embedding(%t, %we) {vocab_axis = "tp"} {{.*}}, #dist.partial<tp>>
// CHECK:      %wu = layer.weight() {{.*}} : !layer.tensor<[64, 64], bf16>
// CHECK-NEXT: %u = layer.matmul(%h, %wu) {{.*}} : !layer.tensor<[ceildiv(batch, 4)*q_len, 64], bf16>
// CHECK-NEXT: %wd = layer.weight() {{.*}} : !layer.tensor<[64, 64], bf16>
// CHECK-NEXT: %d = layer.matmul(%u, %wd) {{.*}}, #dist.partial<tp>>
// CHECK-NEXT: dist.all_reduce(%d) {axis = "tp"} {{.*}} : !layer.tensor<[ceildiv(batch, 4)*q_len, 64], bf16>
// CHECK:      !layer.tensor<[batch*q_len, 64], bf16, #dist.sharding<{{\[\[}}dp], []]>>

// EARLY: localize: {{.*}} run insert-collectives first
