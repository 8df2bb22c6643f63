// Logits and token ids of llama.cpp, for benchmarks/llama_cpp.py.
//   llama_cpp_logits MODEL.gguf ids FILE.i32 OUT.f32   all tokens in one batch; [tokens, vocabulary] float32
//   llama_cpp_logits MODEL.gguf text FILE.txt          the ids of each line
#include <llama.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail(std::string(path) + ": can't be read");
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_logits(llama_model* model, const std::string& bytes, const char* target) {
  std::vector<llama_token> ids(bytes.size() / sizeof(llama_token));
  std::copy(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(ids.size() * sizeof(llama_token)),
            reinterpret_cast<char*>(ids.data()));
  const auto count = static_cast<std::uint32_t>(ids.size());
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = count;
  parameters.n_batch = count;
  parameters.n_ubatch = count;
  parameters.n_outputs_max = count;
  parameters.n_threads = 2;
  parameters.n_threads_batch = 2;
  parameters.type_k = GGML_TYPE_F32;
  parameters.type_v = GGML_TYPE_F32;
  parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* context = llama_init_from_model(model, parameters);
  if (context == nullptr) {
    fail("no context");
  }
  llama_batch batch = llama_batch_init(static_cast<std::int32_t>(count), 0, 1);
  for (std::uint32_t i = 0; i < count; ++i) {
    batch.token[i] = ids[i];
    batch.pos[i] = static_cast<llama_pos>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = static_cast<std::int32_t>(count);
  if (llama_decode(context, batch) != 0) {
    fail("llama_decode failed");
  }
  const auto width = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  std::ofstream out(target, std::ios::binary);
  for (std::uint32_t i = 0; i < count; ++i) {
    out.write(reinterpret_cast<const char*>(llama_get_logits_ith(context, static_cast<std::int32_t>(i))),
              static_cast<std::streamsize>(width * sizeof(float)));
  }
}

void print_ids(const llama_model* model, const std::string& text) {
  const llama_vocab* vocab = llama_model_get_vocab(model);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::vector<llama_token> ids(end - begin + 8);
    const std::int32_t count = llama_tokenize(vocab, text.data() + begin, static_cast<std::int32_t>(end - begin),
                                              ids.data(), static_cast<std::int32_t>(ids.size()), false, true);
    for (std::int32_t i = 0; i < count; ++i) {
      std::printf("%s%d", i == 0 ? "" : " ", ids[static_cast<std::size_t>(i)]);
    }
    std::printf("\n");
    begin = end + 1;
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    fail("MODEL.gguf ids FILE.i32 OUT.f32 | MODEL.gguf text FILE.txt");
  }
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) {
          std::fputs(text, stderr);
        }
      },
      nullptr);
  llama_backend_init();
  llama_model_params parameters = llama_model_default_params();
  const bool is_text = std::string(arguments[2]) == "text";
  parameters.vocab_only = is_text;
  llama_model* model = llama_model_load_from_file(arguments[1], parameters);
  if (model == nullptr) {
    fail(std::string(arguments[1]) + ": llama.cpp does not load it");
  }
  if (is_text) {
    print_ids(model, read_file(arguments[3]));
  } else {
    write_logits(model, read_file(arguments[3]), arguments[4]);
  }
  return 0;
}
