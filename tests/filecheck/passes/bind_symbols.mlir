// RUN: pmc opt %s -p "bind-symbols{batch=8 q-len=2}" | filecheck %s
// RUN: pmc opt %s -p "bind-symbols{batch=8}" --verify-diagnostics | filecheck %s --check-prefix=MISSING

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

// CHECK:      ^bb0(%t: !layer.tensor<[16], i32>):
// CHECK:      layer.embedding({{.*}} : !layer.tensor<[16, 64], bf16>
// CHECK:      layer.matmul(%h, %wu) {{.*}} : !layer.tensor<[16, 128], bf16>
// CHECK-NOT:  q_len]

// MISSING: bind-symbols: {{.*}}q_len
