#include "backends/qnn/compiler.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "support/expect_error.h"
#include "support/processes.h"

// A stand-in for Python is run as PROGRAM -c SCRIPT MODE ARGUMENTS...: $2 is the script, $3 the mode, and of a compile
// $4 the model, $5 the output, $6 and $7 the numbers of the SoC.
namespace diffulex_edge::qnn {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;
using testing::write_program;

const std::string kVersions = R"({"onnxruntime": "1.2.3", "onnxruntime_qnn": "4.5.6", "qairt": "7.8.9.0"})";
const std::string kAbsent = R"(echo '{"error": "No module named onnxruntime_qnn", "nodes": []}'; exit 1)";

// A variable of the environment, as it was when the test ends.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name); before != nullptr) {
      before_ = before;
    }
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) {
      ::setenv(name_, before_->c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  Variable(Variable&&) = delete;
  Variable& operator=(Variable&&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class QnnCompiler : public ::testing::Test {
 protected:
  QnnCompiler() { std::filesystem::create_directory(target()); }

  std::filesystem::path target() const { return folder_ / "target"; }
  std::filesystem::path model() const { return target() / "some model_ctx.onnx"; }
  std::filesystem::path binary() const { return target() / "some model_ctx_qnn.bin"; }

  // One that says that it is there, and compiles as `body` does.
  ContextCompiler compiler(const std::string& body) const {
    const auto python =
        write_program(folder_ / "python", "if [ $3 = probe ]; then echo '" + kVersions + "'; exit; fi\n" + body + "\n");
    std::string missing;
    return *ContextCompiler::find(python, missing);
  }
  CompiledContext compile(const std::string& body, const RunControl& control = {}) const {
    return compiler(body).compile("some model.onnx", parse_soc("SM8550"), target(), control);
  }
  void expect_no_files() const { EXPECT_TRUE(std::filesystem::is_empty(target())); }

  TemporaryFolder folder_;
};

TEST_F(QnnCompiler, HasTheVersionsOfThePythonThatIsGiven) {
  EXPECT_EQ(compiler("").version(), "onnxruntime 1.2.3, onnxruntime-qnn 4.5.6, QAIRT 7.8.9.0");
}

TEST_F(QnnCompiler, VersionIsKnownWithoutTheBuildOfTheLibrary) {
  const auto python =
      write_program(folder_ / "python", R"(echo '{"onnxruntime": "1", "onnxruntime_qnn": "2", "qairt": null}')");
  std::string missing;
  EXPECT_EQ(ContextCompiler::find(python, missing)->version(), "onnxruntime 1, onnxruntime-qnn 2");
}

TEST_F(QnnCompiler, GivesThePythonTheWholeScript) {
  const auto python =
      write_program(folder_ / "python", "printf %s \"$2\" > '" + (folder_ / "script").string() + "'\n" + kAbsent);
  std::string missing;
  EXPECT_THROW(ContextCompiler::find(python, missing), Error);
  const std::string script = read_file(folder_ / "script");
  EXPECT_TRUE(script.starts_with("\"\"\"Compiles one ONNX model")) << script.substr(0, 80);
  EXPECT_NE(script.find("r\"\\x1b\\[[0-9;]*m\""), std::string::npos);
  EXPECT_TRUE(script.ends_with("sys.exit(main())\n")) << script.substr(script.size() - 80);
}

TEST_F(QnnCompiler, GivenPythonWithoutThePackageIsAnError) {
  const auto python = write_program(folder_ / "python", kAbsent);
  std::string missing;
  expect_error(ErrorCode::kUnsupported,
               {python.string(), "No module named onnxruntime_qnn", "(pip install onnxruntime-qnn"},
               [&] { ContextCompiler::find(python, missing); });
}

TEST_F(QnnCompiler, GivenPythonThatIsNotThereIsAnError) {
  std::string missing;
  expect_error(ErrorCode::kInvalidArgument, {(folder_ / "none").string(), "can't be started"},
               [&] { ContextCompiler::find(folder_ / "none", missing); });
}

TEST_F(QnnCompiler, GivenPythonThatPrintsSomethingElseIsAnError) {
  std::string missing;
  const auto python = write_program(folder_ / "python", "echo hello; echo Traceback >&2; echo 'SyntaxError: x' >&2");
  expect_error(ErrorCode::kUnsupported, {"printed no answer, but 'hello", "SyntaxError: x"},
               [&] { ContextCompiler::find(python, missing); });
  write_program(folder_ / "python", "echo '{\"onnxruntime\": 1}'");
  expect_error(ErrorCode::kUnsupported, {"printed no versions, but '{\"onnxruntime\": 1}"},
               [&] { ContextCompiler::find(python, missing); });
  write_program(folder_ / "python", "kill -ABRT $$");
  expect_error(ErrorCode::kUnsupported, {"was ended by signal 6, Aborted"},
               [&] { ContextCompiler::find(python, missing); });
}

TEST_F(QnnCompiler, IsLookedForInTheVirtualEnvironmentAndThenInThePath) {
  const Variable environment("VIRTUAL_ENV", (folder_ / "venv").string());
  const Variable path("PATH", (folder_ / "path").string());
  std::string missing;
  EXPECT_FALSE(ContextCompiler::find({}, missing).has_value());
  EXPECT_TRUE(missing.starts_with("Qualcomm's compiler is missing: pip install onnxruntime-qnn")) << missing;
  EXPECT_NE(missing.find("venv/bin/python: can't be started"), std::string::npos) << missing;
  EXPECT_NE(missing.find("; python3: can't be started"), std::string::npos) << missing;

  write_program(folder_ / "venv/bin/python", kAbsent);
  EXPECT_FALSE(ContextCompiler::find({}, missing).has_value());
  EXPECT_NE(missing.find("venv/bin/python: No module named onnxruntime_qnn"), std::string::npos) << missing;
  EXPECT_EQ(missing.find('\n'), std::string::npos);

  write_program(folder_ / "path/python3", R"(echo '{"onnxruntime": "1", "onnxruntime_qnn": "path"}')");
  EXPECT_EQ(ContextCompiler::find({}, missing).value().version(), "onnxruntime 1, onnxruntime-qnn path");
  EXPECT_EQ(missing, "");

  write_program(folder_ / "venv/bin/python", R"(echo '{"onnxruntime": "1", "onnxruntime_qnn": "venv"}')");
  EXPECT_EQ(ContextCompiler::find({}, missing).value().version(), "onnxruntime 1, onnxruntime-qnn venv");
}

const std::string kWritesBoth = R"(echo "$4 $6 $7" > "$5"; printf 12345 > "${5%.onnx}_qnn.bin"
echo chatter >&2
echo '{"seconds": 1.5, "peak_rss_bytes": 5000000000, "graph_name": "g", "binary": "some model_ctx_qnn.bin", "bytes": 5}')";

TEST_F(QnnCompiler, CompilesForTheSocIntoTheFolder) {
  std::vector<std::string> stages;
  RunControl control;
  control.on_progress = [&](const Progress& progress) { stages.push_back(progress.stage); };
  const CompiledContext context = compile(kWritesBoth, control);
  EXPECT_EQ(context.model, model());
  EXPECT_EQ(context.binary, binary());
  EXPECT_EQ(context.bytes, 5);
  EXPECT_EQ(context.graph_name, "g");
  EXPECT_EQ(context.seconds, 1.5);
  EXPECT_EQ(context.peak_rss_bytes, 5000000000);
  EXPECT_EQ(read_file(model()), "some model.onnx 43 73\n");
  EXPECT_EQ(stages, std::vector<std::string>{"compile SM8550"});
}

TEST_F(QnnCompiler, CompilesSeveralModelsIntoOneBinary) {
  const std::string writes_all = R"(echo "$4" > "$5"; echo "$9" > "${10}"; printf 12345 > "${5%.onnx}_qnn.bin"
echo '{"graph_name": "g", "binary": "a_ctx_qnn.bin", "others": [{"graph_name": "h", "binary": "a_ctx_qnn.bin"}]}')";
  const std::vector<CompiledContext> contexts =
      compiler(writes_all).compile_together({"a.onnx", "b.onnx"}, parse_soc("SM8550"), target(), {});
  ASSERT_EQ(contexts.size(), 2U);
  EXPECT_EQ(contexts[0].graph_name, "g");
  EXPECT_EQ(contexts[1].graph_name, "h");
  EXPECT_EQ(contexts[1].binary, contexts[0].binary);
  EXPECT_EQ(contexts[1].bytes, 5);
  EXPECT_EQ(read_file(target() / "a_ctx.onnx"), "a.onnx\n");
  EXPECT_EQ(read_file(target() / "b_ctx.onnx"), "b.onnx\n");
}

TEST_F(QnnCompiler, ChecksEveryGraphOfABinary) {
  // The second graph is in another binary, or missing.
  for (const std::string others : {R"([{"graph_name": "h", "binary": "b_ctx_qnn.bin"}])", "[]", "7"}) {
    const std::string body = R"(echo 1 > "$5"; echo 2 > "${10}"; printf 12345 > "${5%.onnx}_qnn.bin"
echo '{"graph_name": "g", "binary": "a_ctx_qnn.bin", "others": )" +
                             others + "}'";
    EXPECT_THROW(compiler(body).compile_together({"a.onnx", "b.onnx"}, parse_soc("SM8550"), target(), {}),
                 CompilerError);
    expect_no_files();
  }
}

TEST_F(QnnCompiler, ReplacesAnOlderContext) {
  write_file(model(), "old");
  write_file(binary(), "older and longer");
  EXPECT_EQ(compile("[ -e \"$5\" ] || [ -e \"${5%.onnx}_qnn.bin\" ] && exit 1\n" + kWritesBoth).bytes, 5);
}

TEST_F(QnnCompiler, ReturnsTheWholeMessageAndTheNodesOfAFailure) {
  const std::string reason(2000, 'x');
  try {
    compile(
        "echo partial > \"$5\"\ncat <<'END'\n{\"error\": \"no fallback\\nat all: " + reason +
        " end\", \"nodes\": [{\"name\": \"gemm_1\", \"type\": \"Gemm\"}, {\"name\": \"/a/b\", \"type\": \"Add\"}], " +
        "\"log\": \"line 1\\nline 2\"}\nEND\nexit 1");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const CompilerError& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    const Error& base = error;
    EXPECT_EQ(std::string(base.what()),
              "some model.onnx for SM8550: Qualcomm's compiler failed: no fallback; at all: " + reason +
                  " end; it means gemm_1 (Gemm), /a/b (Add)");
    EXPECT_EQ(error.nodes(), (std::vector<std::string>{"gemm_1", "/a/b"}));
    EXPECT_EQ(error.log(), "line 1\nline 2");
  }
  expect_no_files();
}

TEST_F(QnnCompiler, SaysThatTheCompilerCrashed) {
  try {
    compile("echo partial > \"$5\"; echo 'terminate called' >&2; kill -SEGV $$");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const CompilerError& error) {
    EXPECT_EQ(std::string(error.what()),
              "some model.onnx for SM8550: Qualcomm's compiler crashed (signal 11, Segmentation fault)");
    EXPECT_EQ(error.log(), "terminate called\n");
  }
  expect_no_files();
}

TEST_F(QnnCompiler, SaysThatMemoryRanOut) {
  expect_error(ErrorCode::kOutOfMemory, {"some model.onnx for SM8550: Qualcomm's compiler was killed", "memory"},
               [&] { compile("kill -KILL $$"); });
}

TEST_F(QnnCompiler, DoesNotBelieveAnAnswerWithoutAContext) {
  expect_error(ErrorCode::kUnsupported, {"printed no answer, but 'garbage", ": last words"},
               [&] { compile("echo garbage; echo first >&2; echo last words >&2"); });
  expect_error(ErrorCode::kUnsupported, {"printed no answer"}, [&] { compile("exit 3"); });
  expect_error(ErrorCode::kUnsupported,
               {"wrote no context, and answered '{\"graph_name\": \"g\", \"binary\": \"some model_ctx_qnn.bin\"}'"},
               [&] { compile("echo '{\"graph_name\": \"g\", \"binary\": \"some model_ctx_qnn.bin\"}'"); });
  expect_error(ErrorCode::kUnsupported, {"ended with exit code 4"}, [&] { compile(kWritesBoth + "\nexit 4"); });
  // Each of the files, and each field that names something.
  expect_error(ErrorCode::kUnsupported, {"wrote no context"}, [&] { compile(kWritesBoth + "\nrm \"$5\""); });
  expect_error(ErrorCode::kUnsupported, {"wrote no context"},
               [&] { compile(kWritesBoth + "\nrm \"${5%.onnx}_qnn.bin\""); });
  std::string other = kWritesBoth;
  expect_error(ErrorCode::kUnsupported, {"wrote no context"},
               [&] { compile(other.replace(other.find("\"graph_name\": \"g\""), 17, "\"graph_name\": 7")); });
  other = kWritesBoth;
  expect_error(ErrorCode::kUnsupported, {"wrote no context"},
               [&] { compile(other.replace(other.find("\"some model_ctx_qnn"), 19, "\"../other_qnn")); });
  expect_no_files();
}

TEST_F(QnnCompiler, StopsWithoutLeavingAProcessOrAFile) {
  const auto ids = folder_ / "ids";
  const ContextCompiler sleeping =
      compiler("echo partial > \"$5\"; sleep 100 & echo $$ $! > '" + ids.string() + "'; wait");
  testing::expect_stops_all(ids, [&](std::stop_token stop) {
    RunControl control;
    control.stop = std::move(stop);
    sleeping.compile("some model.onnx", parse_soc("SM8550"), target(), control);
  });
  expect_no_files();
}

}  // namespace
}  // namespace diffulex_edge::qnn
