// Text with a Core ML bundle of `diffulex-edge export --backend coreml --cache TOKENS --bundle DIR`, decoded block by block
// as SDAR's authors do. NEVER COMPILED HERE: written against Apple's documentation of MLModel, MLState and MLMultiArray on a
// machine without Xcode. Needs iOS 18 or macOS 15, where a model keeps its keys and values in a state.
//
// The model's function takes input_ids int32 [1, B] (B one of generation.json's step_sizes: shorter steps are padded),
// start_pos int32 [1] and token_count int32 [1], and gives logits float32 [1, B, vocab]. Bidirectional models take
// context_len as well and decode otherwise, as do Dream and Fast-dLLM v2, whose logits are shifted: src/diffusion has all of
// them in C++, as plain functions of tokens and logits. Tokens come from tokenizer.json, for instance by Hugging Face's
// swift-transformers (AutoTokenizer.from(modelFolder:)).
import CoreML
import Foundation

struct Generation: Decodable {  // generation.json
  struct Artefact: Decodable { let name: String }
  struct Model: Decodable {
    let vocab_size, block_length, max_tokens: Int
    let mask_token_id: Int?
    let eos_ids, step_sizes: [Int]
    let shifted_logits: Bool
    let cache: String
  }
  struct Decoding: Decodable { let threshold: Double? }
  let artefact: Artefact
  let model: Model
  let decoding: Decoding
}

enum DiffulexEdgeError: Error { case notBlockCausal, tooLong(Int), noLogits }

@available(iOS 18.0, macOS 15.0, *)
final class DiffulexEdge {
  private let generation: Generation
  private let model: MLModel
  private var state: MLState
  private let mask: Int

  init(bundle: URL, configuration: MLModelConfiguration = .init()) async throws {
    let json = try Data(contentsOf: bundle.appendingPathComponent("generation.json"))
    generation = try JSONDecoder().decode(Generation.self, from: json)
    guard generation.model.cache == "exact", generation.model.block_length > 1, !generation.model.shifted_logits,
      let mask = generation.model.mask_token_id
    else { throw DiffulexEdgeError.notBlockCausal }
    self.mask = mask
    let package = bundle.appendingPathComponent(generation.artefact.name)
    let compiled = try await MLModel.compileModel(at: package)  // keep it: compiling takes longer than loading
    model = try MLModel(contentsOf: compiled, configuration: configuration)
    state = model.makeState()
  }

  /// The tokens behind `prompt`, most probable first. `onBlock` is given each finished block; false ends the text.
  func generate(prompt: [Int], maxNewTokens: Int, onBlock: ([Int]) -> Bool = { _ in true }) throws -> [Int] {
    let length = generation.model.block_length
    let end = (prompt.count + maxNewTokens + length - 1) / length * length
    guard end <= generation.model.max_tokens else { throw DiffulexEdgeError.tooLong(generation.model.max_tokens) }
    var canvas = prompt + Array(repeating: mask, count: end - prompt.count)
    let largest = generation.model.step_sizes.last! / length * length
    let known = prompt.count / length * length
    for begin in stride(from: 0, to: known, by: largest) {  // whole blocks of the prompt
      _ = try step(canvas[begin..<min(begin + largest, known)], at: begin)
    }
    for begin in stride(from: known, to: end, by: length) {
      let block = begin..<(begin + length)
      while canvas[block].contains(mask) {
        let logits = try step(canvas[block], at: begin)
        let best = block.filter { canvas[$0] == mask }.map { ($0, pick(logits, row: $0 - begin)) }
          .sorted { $0.1.probability > $1.1.probability }
        for (place, found) in best
        where found.probability >= generation.decoding.threshold ?? 0.85 || place == best[0].0 { canvas[place] = found.token }
      }
      _ = try step(canvas[block], at: begin)  // keys and values of the final tokens
      let new = Array(canvas[max(begin, prompt.count)..<block.upperBound])
      if !onBlock(new) || new.contains(where: generation.model.eos_ids.contains) { break }
    }
    let text = canvas[prompt.count..<min(prompt.count + maxNewTokens, end)].prefix { $0 != mask }
    return Array(text.prefix { !generation.model.eos_ids.contains($0) })
  }

  private func step(_ tokens: ArraySlice<Int>, at start: Int) throws -> MLMultiArray {
    let size = generation.model.step_sizes.first { $0 >= tokens.count }!
    let padded = Array(tokens) + Array(repeating: mask, count: size - tokens.count)
    let inputs = try MLDictionaryFeatureProvider(dictionary: [
      "input_ids": array(padded, shape: [1, size]), "start_pos": array([start], shape: [1]),
      "token_count": array([tokens.count], shape: [1]),
    ])
    let output = try model.prediction(from: inputs, using: state)
    guard let logits = output.featureValue(for: "logits")?.multiArrayValue else { throw DiffulexEdgeError.noLogits }
    return logits
  }

  private func array(_ values: [Int], shape: [Int]) throws -> MLMultiArray {
    let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .int32)
    for (index, value) in values.enumerated() { array[index] = NSNumber(value: Int32(value)) }
    return array
  }

  /// The most probable token but the mask, which counts among the others.
  private func pick(_ logits: MLMultiArray, row: Int) -> (token: Int, probability: Double) {
    logits.withUnsafeBufferPointer(ofType: Float.self) { all in
      let stride = logits.strides[1].intValue
      let values = UnsafeBufferPointer(rebasing: all[(row * stride)..<(row * stride + generation.model.vocab_size)])
      let token = values.indices.filter { $0 != mask }.max { values[$0] < values[$1] }!
      let top = values.max()!
      let sum = values.reduce(0.0) { $0 + exp(Double($1 - top)) }
      return (token, exp(Double(values[token] - top)) / sum)
    }
  }
}
