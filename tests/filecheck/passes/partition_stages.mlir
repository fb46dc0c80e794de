// RUN: pmc opt %s -p "annotate-shardings{pp=3},insert-collectives,localize,partition-stages" | filecheck %s
// RUN: pmc opt %s -p "annotate-shardings{pp=5},insert-collectives,localize,partition-stages" --verify-diagnostics | filecheck %s --check-prefix=MANY

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

// Four layers on three stages: the middle one takes the extra layer.
// CHECK:      dist.stage() {index = 0}
// CHECK:        layer.embedding
// CHECK:        [[A:%[0-9a-z_]+]] = layer.repeat 1 from 0 of 4
// CHECK:        dist.send([[A]]) {peer = 1, channel = 0}
// CHECK:      dist.stage() {index = 1}
// CHECK-NEXT:   [[B:%[0-9a-z_]+]] = dist.recv() {peer = 0, channel = 0}
// CHECK-NEXT:   [[C:%[0-9a-z_]+]] = layer.repeat 2 from 1 of 4 ({{.*}} = [[B]])
// CHECK:        dist.send([[C]]) {peer = 2, channel = 1}
// CHECK:      dist.stage() {index = 2}
// CHECK-NEXT:   [[D:%[0-9a-z_]+]] = dist.recv() {peer = 1, channel = 1}
// CHECK-NEXT:   layer.repeat 1 from 3 of 4 ({{.*}} = [[D]])
// CHECK-NOT:    dist.send

// MANY: partition-stages: pp = 5 stages for 4 layers; at most one stage per layer
