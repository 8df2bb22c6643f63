#include "core/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, kill
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPatienceMilliseconds = 20;  // between looks at the stop token

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void fail(const std::string& program, const char* action, int error_number) {
  throw Error(ErrorCode::kIo, program, std::string(action) + ": " + std::strerror(error_number));
}

// The reading end of a pipe; the writing end until the child has it.
class Pipe {
 public:
  explicit Pipe(const std::string& program) {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) {
      fail(program, "can't make a pipe", errno);
    }
    ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
  }
  ~Pipe() {
    ::close(ends_[0]);
    close_writer();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  Pipe(Pipe&&) = delete;
  Pipe& operator=(Pipe&&) = delete;

  int writer() const { return ends_[1]; }
  void close_writer() {
    if (ends_[1] >= 0) {
      ::close(ends_[1]);
      ends_[1] = -1;
    }
  }

  // Waits a moment for something to read, or for no more than that once there is nothing to come.
  void wait() const {
    pollfd watched{.fd = ended_ ? -1 : ends_[0], .events = POLLIN, .revents = 0};
    ::poll(&watched, 1, kPatienceMilliseconds);
  }
  // Appends what is there now.
  void read(std::string& text, std::size_t most) {
    std::array<char, 1U << 14U> buffer{};
    while (!ended_ && text.size() <= most) {
      const ssize_t count = ::read(ends_[0], buffer.data(), buffer.size());
      if (count > 0) {
        text.append(buffer.data(), static_cast<std::size_t>(count));
      } else if (count == 0) {
        ended_ = true;
      } else if (errno != EINTR) {
        return;  // nothing yet
      }
    }
  }

 private:
  std::array<int, 2> ends_{-1, -1};
  bool ended_ = false;
};

// A started child. Its destructor ends its process group, and takes the child off the system's list.
class Child {
 public:
  Child(const std::vector<std::string>& arguments, int output, int errors) {
    std::vector<char*> pointers;
    pointers.reserve(arguments.size() + 1);
    for (const std::string& argument : arguments) {
      pointers.push_back(const_cast<char*>(argument.c_str()));  // NOLINT(*-const-cast): POSIX; it does not write
    }
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    // Whatever our own threads block or ignore.
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    sigset_t defaults;
    ::sigemptyset(&defaults);
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) {
      ::sigaddset(&defaults, signal);
    }
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    const int error = ::posix_spawnp(&id_, pointers.front(), &actions, &attributes, pointers.data(), environ);
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      throw Error(ErrorCode::kInvalidArgument, arguments.front(),
                  std::string("can't be started: ") + std::strerror(error));
    }
  }
  ~Child() {
    if (id_ > 0) {
      finish();
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(Child&&) = delete;
  Child& operator=(Child&&) = delete;

  // It stays on the system's list, and its number in use, until `finish`. (True as well where the caller lets the
  // system throw away the states of its children.)
  bool has_ended() const {
    siginfo_t information{};
    const int result = ::waitid(P_PID, static_cast<id_t>(id_), &information, WEXITED | WNOHANG | WNOWAIT);
    return result != 0 ? errno != EINTR : information.si_pid != 0;
  }

  // Returns the state as `waitpid` has it.
  int finish() {
    ::kill(-id_, SIGKILL);
    int status = 0;
    while (::waitpid(id_, &status, 0) < 0 && errno == EINTR) {
    }
    id_ = 0;
    return status;
  }

 private:
  pid_t id_ = 0;
};

std::string read_back(std::FILE* file, std::size_t most) {
  std::string text;
  std::array<char, 1U << 14U> buffer{};
  while (text.size() < most) {
    const ssize_t count = ::pread(::fileno(file), buffer.data(), buffer.size(), static_cast<off_t>(text.size()));
    if (count <= 0) {
      break;
    }
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return text;
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& arguments, const std::stop_token& stop,
                      const ChildLimits& limits) {
  const std::string& program = arguments.front();
  if (stop.stop_requested()) {
    throw Error(ErrorCode::kCancelled, {}, "stopped");
  }
  const File errors(std::tmpfile());
  if (!errors) {
    fail(program, "can't make a temporary file", errno);
  }
  Pipe output(program);
  ChildResult result;
  const auto start = Clock::now();
  Child child(arguments, output.writer(), ::fileno(errors.get()));
  output.close_writer();
  for (bool ended = false; !ended;) {
    output.wait();
    ended = child.has_ended();
    output.read(result.output, limits.output_bytes);
    if (!ended && stop.stop_requested()) {
      throw Error(ErrorCode::kCancelled, {}, "stopped");
    }
    if (result.output.size() > limits.output_bytes) {
      throw Error(ErrorCode::kUnsupported, program,
                  "printed more than " + std::to_string(limits.output_bytes) + " bytes");
    }
    if (!ended && limits.time && Clock::now() - start > *limits.time) {
      throw Error(ErrorCode::kUnsupported, program,
                  "did not answer in " +
                      std::to_string(std::chrono::duration_cast<std::chrono::seconds>(*limits.time).count()) + " s");
    }
  }
  const int status = child.finish();
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  result.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  result.errors = read_back(errors.get(), limits.output_bytes);
  return result;
}

}  // namespace diffulex_edge
