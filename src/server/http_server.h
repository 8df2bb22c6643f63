// HTTP/1.1 on a TCP port: many connections on one thread, each with limits on its size and its time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace diffulex_edge {

// A request before its body was read.
struct HttpHead {
  std::string method;
  std::string path;  // without the query
  std::string host;
  std::string origin;  // of the page that asks, where a browser's page does
  std::string authorization;
};

struct HttpRequest {
  HttpHead head;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// How a request is answered: with send(), or with begin(), write() as often as wanted, and end(). Any thread may call;
// what is said to a client that is gone is dropped. A request whose last reply is destroyed unanswered is cut off.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  virtual void send(HttpResponse response) = 0;
  // The head of `response`; its body comes in pieces.
  virtual void begin(HttpResponse response) = 0;
  virtual void write(std::string data) = 0;
  // Takes the place of the last such piece that still waits behind others, if one does: for pictures of a state.
  virtual void write_latest(std::string data) = 0;
  virtual void end() = 0;
  // Called once, from the server's thread, where the client goes away before its answer has ended.
  virtual void on_gone(std::function<void()> callback) = 0;
};

// What a server does with requests.
class HttpService {
 public:
  virtual ~HttpService() = default;

  // Called from the server's thread before the body is read: an answer in place of handle()'s.
  virtual std::optional<HttpResponse> refuse(const HttpHead& head) = 0;
  // Called from one of several threads; must not throw.
  virtual void handle(const HttpRequest& request, std::shared_ptr<HttpReply> reply) = 0;
  // Called from the server's thread where an answer begins.
  virtual void answered(const HttpHead& head, int status) = 0;
  // The server stops: what is being answered should end soon.
  virtual void close() = 0;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;  // 0: any free one
  std::size_t max_body = std::size_t{1} << 20U;
  std::size_t max_connections = 512;  // more wait to be accepted
};

class HttpServer {
 public:
  // Takes the port; connections wait until run(). Throws Error{kInvalidArgument} for a host that is not an address of
  // this machine, and Error{kIo} where the port can't be had.
  explicit HttpServer(HttpServerOptions options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  HttpServer(HttpServer&&) = delete;
  HttpServer& operator=(HttpServer&&) = delete;

  std::string url() const;  // "http://127.0.0.1:8080"
  bool is_loopback() const;

  // Serves until stop(), and until what was being answered has ended or some seconds have passed. `service` may be
  // destroyed then. Once only.
  void run(HttpService& service);
  // From any thread.
  void stop();

  std::size_t connections() const;

 private:
  friend class HttpConnection;

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffulex_edge
