// RUN: pmc opt %s -p "expand-blocks{phase=decode}" | filecheck %s
// RUN: pmc opt %s -p "expand-blocks{phase=prefill}" | filecheck %s --check-prefix=PREFILL
// RUN: pmc opt %s -p "expand-blocks{phase=decode},expand-blocks{phase=decode}" --verify-diagnostics | filecheck %s --check-prefix=TWICE

builtin.module {
  model.llm() {sym_name = "m", architecture = "LlamaForCausalLM", hidden_size = 64, vocab_size = 256, dtype = bf16} at "m" {
  ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
    %1 = model.embedding(%0) {vocab_size = 256} at "embed" : !layer.tensor<[batch*q_len, 64], bf16>
    %2 = model.repeat([%1]) {count = 4} at "blocks.dense" : !layer.tensor<[batch*q_len, 64], bf16> {
    ^bb0(%3: !layer.tensor<[batch*q_len, 64], bf16>):
      %4 = model.norm(%3) {kind = "rms", eps = 1.0e-05} at "blocks.dense.ffn.norm" : !layer.tensor<[batch*q_len, 64], bf16>
      %5 = model.ffn(%4) {activation = "silu", gated = true, intermediate_size = 128} at "blocks.dense.ffn" : !layer.tensor<[batch*q_len, 64], bf16>
      %6 = model.add(%3, %5) at "blocks.dense.ffn.residual" : !layer.tensor<[batch*q_len, 64], bf16>
      model.yield([%6]) at "blocks.dense"
    }
    %7 = model.norm(%2) {kind = "rms", eps = 1.0e-05} at "lm_head.norm" : !layer.tensor<[batch*q_len, 64], bf16>
    %8 = model.lm_head(%7) at "lm_head" : !layer.tensor<[batch*q_len, 256], bf16>
    model.yield([%8]) at "m"
  }
}

// One repeat stays one repeat; each weight is an op in the body that uses it.
// CHECK:      layer.program() {sym_name = "m", phase = "decode"} at "m" {
// CHECK:        layer.embedding({{.*}}) at "embed" : !layer.tensor<[batch*q_len, 64], bf16>
// CHECK:        layer.repeat 4 from 0 of 4 ([[H:%[0-9]+]] = {{.*}}) at "blocks.dense"
// CHECK:          [[N:%[0-9]+]] = layer.rms_norm([[H]], {{.*}}) {eps = 1.0e-05, group = 64} at "blocks.dense.ffn.norm"
// CHECK:          [[WG:%[0-9]+]] = layer.weight() {axes = ["", "ffn"]} at "blocks.dense.ffn.gate_proj.weight" : !layer.tensor<[64, 128], bf16>
// CHECK-NEXT:     [[G:%[0-9]+]] = layer.matmul([[N]], [[WG]]) at "blocks.dense.ffn.gate_proj"
// CHECK:          [[U:%[0-9]+]] = layer.matmul([[N]], {{.*}}) at "blocks.dense.ffn.up_proj"
// CHECK-NEXT:     [[S:%[0-9]+]] = layer.silu_mul([[G]], [[U]]) at "blocks.dense.ffn.silu_mul"
// CHECK:          [[D:%[0-9]+]] = layer.matmul([[S]], {{.*}}) at "blocks.dense.ffn.down_proj"
// CHECK-NEXT:     layer.add([[H]], [[D]]) at "blocks.dense.ffn.residual"
// CHECK-NOT:  model.

// Prefill computes the logits of the last token of each sequence only.
// PREFILL:    layer.last_token({{.*}}) {q_len = <q_len>} at "lm_head.last_token" : !layer.tensor<[batch, 64], bf16>
// PREFILL:    layer.rms_norm({{.*}}) {{.*}} at "lm_head.norm" : !layer.tensor<[batch, 64], bf16>
// PREFILL:    layer.matmul({{.*}}) at "lm_head.proj" : !layer.tensor<[batch, 256], bf16>

// TWICE: expand-blocks: the module is at the layer level, this pass reads the model level
