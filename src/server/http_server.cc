#include "server/http_server.h"

// Boost 1.74 needs std::exchange and does not include it.
#include <utility>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <exception>
#include <iterator>
#include <list>
#include <sstream>
#include <unordered_set>

#include "diffulex_edge/error.h"
#include "server/api_error.h"

namespace diffulex_edge {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::uint32_t kMostOfAHead = 16384;
constexpr std::size_t kMostAhead = 65536;                       // bytes that a client sends before its answer has ended
constexpr std::size_t kMostBuffered = std::size_t{128} << 10U;  // of them, or of a chunk's head or a trailer
constexpr std::size_t kMostDrained = std::size_t{8} << 20U;
constexpr std::chrono::seconds kReadTime{30};   // for a whole request, and between two
constexpr std::chrono::seconds kWriteTime{30};  // for a piece
constexpr std::chrono::seconds kDrainTime{2};
constexpr std::chrono::seconds kStopTime{5};
constexpr std::chrono::milliseconds kAcceptAgain{100};
constexpr std::size_t kHandlers = 2;

HttpResponse to_response(const ApiError& error) { return {.status = error.status(), .body = error.to_json()}; }

ApiError read_error(const error_code& error, std::size_t max_body) {
  if (error == http::error::body_limit) {
    return {413, "the body is larger than " + std::to_string(max_body) + " bytes", "body_too_large"};
  }
  if (error == http::error::header_limit) {
    return {431, "the request's head is larger than " + std::to_string(kMostOfAHead) + " bytes", "head_too_large"};
  }
  if (error == http::error::buffer_overflow) {
    return {431, "a chunk's head or the trailer is larger than " + std::to_string(kMostBuffered) + " bytes",
            "head_too_large"};
  }
  return {400, "not an HTTP request: " + error.message(), "bad_request"};
}

std::string text_of(boost::string_view text) { return {text.data(), text.size()}; }

}  // namespace

class HttpConnection;

struct HttpServer::State {
  explicit State(HttpServerOptions wanted)
      : options(std::move(wanted)), acceptor(context), accept_again(context), stop_timer(context) {}

  void accept();
  void on_accept(const error_code& error, tcp::socket socket);
  void leave(HttpConnection* connection) noexcept;
  void stop();

  HttpServerOptions options;
  HttpService* service = nullptr;
  std::atomic<std::size_t> count{0};
  std::unordered_set<HttpConnection*> connections;
  bool is_accepting = false;
  bool is_stopping = false;
  // Destroyed first of all, with the connections that its handlers keep.
  asio::io_context context{1};
  // Until stop(): while the only connections are those of clients that are gone, nothing else keeps it running.
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  tcp::acceptor acceptor;
  asio::steady_timer accept_again;
  asio::steady_timer stop_timer;
  asio::thread_pool handlers{kHandlers};
};

// A client's connection. All but the constructor runs on the server's thread.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(HttpServer::State& server, tcp::socket socket) : server_(server), stream_(std::move(socket)) {}
  ~HttpConnection() { server_.leave(this); }
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;
  HttpConnection(HttpConnection&&) = delete;
  HttpConnection& operator=(HttpConnection&&) = delete;

  asio::io_context& context() { return server_.context; }
  void read_head();
  // Ends it now, where it waits for a request, or else behind its answer.
  void stop();
  void close();

  // Of the answer with the number `answer`; others are over.
  void send(std::uint64_t answer, const HttpResponse& response);
  void begin(std::uint64_t answer, const HttpResponse& response);
  void write(std::uint64_t answer, std::string data, bool is_latest);
  void end(std::uint64_t answer);
  void set_gone(std::uint64_t answer, std::function<void()> callback);
  void abandon(std::uint64_t answer);

 private:
  enum class AfterWatch : std::uint8_t { kWatch, kRead, kDrain };
  struct Piece {
    std::string data;
    bool is_latest = false;
  };

  bool is_current(std::uint64_t answer) const { return is_answering_ && answer == answer_; }
  void on_head(const error_code& error);
  void read_body();
  void on_body(const error_code& error);
  void on_read_error(const error_code& error);
  void refuse(const HttpResponse& response);
  void watch();
  void on_watched(const error_code& error, std::size_t bytes);
  void leave_watch(AfterWatch next);
  void start_head(const HttpResponse& response, std::optional<std::size_t> length);
  void queue(Piece piece);
  void write_next();
  void on_written(const error_code& error);
  void finish();
  void drain(std::size_t left);
  void gone();

  HttpServer::State& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kMostBuffered};
  std::unique_ptr<http::request_parser<http::string_body>> parser_;
  std::vector<char> drained_;
  HttpHead head_;

  std::uint64_t answer_ = 0;
  bool is_answering_ = false;  // from the request's end to the answer's
  bool has_begun_ = false;     // the answer's head was queued
  bool is_chunked_ = false;
  bool has_ended_ = false;
  bool keeps_alive_ = false;
  bool is_old_ = false;  // HTTP/1.0
  std::function<void()> gone_;
  std::list<Piece> pieces_;
  bool is_writing_ = false;
  bool is_watching_ = false;
  AfterWatch after_watch_ = AfterWatch::kWatch;
};

void HttpConnection::read_head() {
  if (server_.is_stopping) {
    close();
    return;
  }
  parser_ = std::make_unique<http::request_parser<http::string_body>>();
  parser_->header_limit(kMostOfAHead);
  parser_->body_limit(server_.options.max_body);
  stream_.expires_after(kReadTime);
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = shared_from_this()](const error_code& error, std::size_t) { self->on_head(error); });
}

void HttpConnection::on_head(const error_code& error) {
  if (error) {
    on_read_error(error);
    return;
  }
  const auto& fields = parser_->get();
  const auto field = [&](http::field name) { return text_of(fields[name]); };
  const std::string target = text_of(fields.target());
  head_ = {.method = text_of(fields.method_string()),
           .path = target.substr(0, target.find('?')),
           .host = field(http::field::host),
           .origin = field(http::field::origin),
           .authorization = field(http::field::authorization)};
  keeps_alive_ = fields.keep_alive();
  is_old_ = fields.version() < 11;
  if (const std::optional<HttpResponse> response = server_.service->refuse(head_)) {
    refuse(*response);
    return;
  }
  if (beast::iequals(fields[http::field::expect], "100-continue")) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(stream_, asio::buffer(kContinue),
                      [self = shared_from_this()](const error_code& failed, std::size_t) {
                        if (!failed) {
                          self->read_body();
                        }
                      });
    return;
  }
  read_body();
}

void HttpConnection::read_body() {
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](const error_code& error, std::size_t) { self->on_body(error); });
}

void HttpConnection::on_read_error(const error_code& error) {
  const bool is_wrong = error.category() == http::make_error_code(http::error::bad_version).category() &&
                        error != http::error::end_of_stream && error != http::error::partial_message;
  if (is_wrong) {
    refuse(to_response(read_error(error, server_.options.max_body)));
  } else {
    close();  // the client's end, or time is up
  }
}

// Answers before the request was read: the connection ends behind that.
void HttpConnection::refuse(const HttpResponse& response) {
  keeps_alive_ = false;
  is_answering_ = true;
  has_begun_ = has_ended_ = is_chunked_ = false;
  send(++answer_, response);
}

// A reply that other threads use.
class ConnectionReply final : public HttpReply {
 public:
  ConnectionReply(std::shared_ptr<HttpConnection> connection, std::uint64_t answer)
      : connection_(std::move(connection)), answer_(answer) {}
  ~ConnectionReply() override {
    asio::io_context& context = connection_->context();
    // Not a copy: the last to keep a connection is the server's thread.
    asio::post(context, [connection = std::move(connection_), answer = answer_] { connection->abandon(answer); });
  }
  ConnectionReply(const ConnectionReply&) = delete;
  ConnectionReply& operator=(const ConnectionReply&) = delete;
  ConnectionReply(ConnectionReply&&) = delete;
  ConnectionReply& operator=(ConnectionReply&&) = delete;

  void send(HttpResponse response) override {
    post([response = std::move(response)](HttpConnection& connection, std::uint64_t answer) {
      connection.send(answer, response);
    });
  }
  void begin(HttpResponse response) override {
    post([response = std::move(response)](HttpConnection& connection, std::uint64_t answer) {
      connection.begin(answer, response);
    });
  }
  void write(std::string data) override { write(std::move(data), false); }
  void write_latest(std::string data) override { write(std::move(data), true); }
  void end() override {
    post([](HttpConnection& connection, std::uint64_t answer) { connection.end(answer); });
  }
  void on_gone(std::function<void()> callback) override {
    post([callback = std::move(callback)](HttpConnection& connection, std::uint64_t answer) {
      connection.set_gone(answer, callback);
    });
  }

 private:
  template <typename Work>
  void post(Work work) {
    asio::post(connection_->context(), [connection = connection_, answer = answer_, work = std::move(work)]() mutable {
      work(*connection, answer);
    });
  }
  void write(std::string data, bool is_latest) {
    post([data = std::move(data), is_latest](HttpConnection& connection, std::uint64_t answer) mutable {
      connection.write(answer, std::move(data), is_latest);
    });
  }

  std::shared_ptr<HttpConnection> connection_;
  std::uint64_t answer_;
};

void HttpConnection::on_body(const error_code& error) {
  if (error) {
    on_read_error(error);
    return;
  }
  stream_.expires_never();
  is_answering_ = true;
  has_begun_ = has_ended_ = is_chunked_ = false;
  ++answer_;
  watch();
  auto reply = std::make_shared<ConnectionReply>(shared_from_this(), answer_);
  asio::post(server_.handlers, [&service = *server_.service, reply = std::move(reply),
                                request = HttpRequest{head_, std::move(parser_->get().body())}]() mutable {
    service.handle(request, std::move(reply));
  });
}

// Reads on while a request is answered: what comes belongs to the next one, and the client's end is seen at once.
void HttpConnection::watch() {
  if (buffer_.size() >= kMostAhead) {
    gone();
    return;
  }
  is_watching_ = true;
  after_watch_ = AfterWatch::kWatch;
  constexpr std::size_t kPiece = 4096;
  stream_.socket().async_read_some(
      buffer_.prepare(kPiece),
      [self = shared_from_this()](const error_code& error, std::size_t bytes) { self->on_watched(error, bytes); });
}

void HttpConnection::on_watched(const error_code& error, std::size_t bytes) {
  is_watching_ = false;
  buffer_.commit(bytes);
  const bool is_over = error && error != asio::error::operation_aborted;
  switch (after_watch_) {
    case AfterWatch::kWatch:
      if (error) {
        gone();
      } else {
        watch();
      }
      break;
    case AfterWatch::kRead:
      if (is_over) {
        close();
      } else {
        read_head();
      }
      break;
    case AfterWatch::kDrain:
      drain(kMostDrained);
      break;
  }
}

void HttpConnection::leave_watch(AfterWatch next) {
  after_watch_ = next;
  if (is_watching_) {
    error_code ignored;
    ignored = stream_.socket().cancel(ignored);  // on_watched() goes on
  } else if (next == AfterWatch::kRead) {
    read_head();
  } else {
    drain(kMostDrained);
  }
}

void HttpConnection::start_head(const HttpResponse& response, std::optional<std::size_t> length) {
  has_begun_ = true;
  keeps_alive_ = keeps_alive_ && !server_.is_stopping;
  http::response<http::empty_body> head(static_cast<http::status>(response.status), is_old_ ? 10 : 11);
  head.set(http::field::content_type, response.content_type);
  head.set(http::field::cache_control, "no-store");
  head.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.headers) {
    head.set(name, value);
  }
  if (length) {
    head.content_length(*length);
  } else if (is_old_) {
    keeps_alive_ = false;  // the connection's end is the answer's
  } else {
    is_chunked_ = true;
    head.chunked(true);
  }
  head.keep_alive(keeps_alive_);
  std::ostringstream text;
  text << head.base();
  server_.service->answered(head_, response.status);
  const bool was_chunked = std::exchange(is_chunked_, false);  // the head is no chunk
  queue({.data = text.str()});
  is_chunked_ = was_chunked;
}

void HttpConnection::send(std::uint64_t answer, const HttpResponse& response) {
  if (!is_current(answer) || has_begun_) {
    return;
  }
  start_head(response, response.body.size());
  if (head_.method != "HEAD") {
    queue({.data = response.body});
  }
  end(answer);
}

void HttpConnection::begin(std::uint64_t answer, const HttpResponse& response) {
  if (is_current(answer) && !has_begun_) {
    start_head(response, std::nullopt);
  }
}

void HttpConnection::write(std::uint64_t answer, std::string data, bool is_latest) {
  if (!is_current(answer) || !has_begun_ || has_ended_) {
    return;
  }
  if (is_latest && !pieces_.empty()) {
    // The first piece is being written.
    const auto waiting = std::ranges::find(std::next(pieces_.begin()), pieces_.end(), true, &Piece::is_latest);
    if (waiting != pieces_.end()) {
      pieces_.erase(waiting);
    }
  }
  queue({.data = std::move(data), .is_latest = is_latest});
}

void HttpConnection::end(std::uint64_t answer) {
  if (!is_current(answer) || !has_begun_ || has_ended_) {
    return;
  }
  has_ended_ = true;
  if (is_chunked_) {
    static constexpr std::string_view kLastChunk = "0\r\n\r\n";
    is_chunked_ = false;
    queue({.data = std::string(kLastChunk)});
  } else if (!is_writing_) {
    finish();
  }
}

void HttpConnection::set_gone(std::uint64_t answer, std::function<void()> callback) {
  if (is_current(answer)) {
    gone_ = std::move(callback);
  } else {
    callback();
  }
}

void HttpConnection::abandon(std::uint64_t answer) {
  if (is_current(answer) && !has_ended_) {
    gone();
  }
}

void HttpConnection::queue(Piece piece) {
  if (piece.data.empty()) {
    return;
  }
  if (is_chunked_) {
    std::ostringstream size;
    size << std::hex << piece.data.size() << "\r\n";
    piece.data = size.str() + piece.data + "\r\n";
  }
  pieces_.push_back(std::move(piece));
  if (!is_writing_) {
    write_next();
  }
}

void HttpConnection::write_next() {
  is_writing_ = true;
  stream_.expires_after(kWriteTime);
  asio::async_write(stream_, asio::buffer(pieces_.front().data),
                    [self = shared_from_this()](const error_code& error, std::size_t) { self->on_written(error); });
}

void HttpConnection::on_written(const error_code& error) {
  is_writing_ = false;
  stream_.expires_never();
  if (error) {
    gone();
    return;
  }
  if (!pieces_.empty()) {  // else the client is gone
    pieces_.pop_front();
  }
  if (!pieces_.empty()) {
    write_next();
  } else if (is_answering_ && has_ended_) {
    finish();
  }
}

void HttpConnection::finish() {
  is_answering_ = false;
  gone_ = nullptr;
  leave_watch(keeps_alive_ && !server_.is_stopping ? AfterWatch::kRead : AfterWatch::kDrain);
}

// Reads what the client still sends: closing before that could take the answer from it.
void HttpConnection::drain(std::size_t left) {
  error_code ignored;
  if (left == kMostDrained) {
    ignored = stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(kDrainTime);
    drained_.resize(kMostOfAHead);
  }
  stream_.async_read_some(asio::buffer(drained_),
                          [self = shared_from_this(), left](const error_code& error, std::size_t bytes) {
                            if (error || bytes >= left) {
                              self->close();
                            } else {
                              self->drain(left - bytes);
                            }
                          });
}

void HttpConnection::gone() {
  is_answering_ = false;
  pieces_.resize(is_writing_ ? 1 : 0);  // the one that is being written stays until that has ended
  close();
  if (const auto callback = std::exchange(gone_, nullptr)) {
    callback();
  }
}

void HttpConnection::stop() {
  if (is_answering_) {
    keeps_alive_ = false;
  } else {
    close();
  }
}

void HttpConnection::close() { stream_.close(); }

void HttpServer::State::accept() {
  if (is_stopping || is_accepting || count >= options.max_connections) {
    return;
  }
  is_accepting = true;
  acceptor.async_accept([this](const error_code& error, tcp::socket socket) { on_accept(error, std::move(socket)); });
}

void HttpServer::State::on_accept(const error_code& error, tcp::socket socket) {
  is_accepting = false;
  if (is_stopping) {
    return;
  }
  if (error) {  // such as no descriptor left
    accept_again.expires_after(kAcceptAgain);
    accept_again.async_wait([this](const error_code&) { accept(); });
    return;
  }
  const auto connection = std::make_shared<HttpConnection>(*this, std::move(socket));
  connections.insert(connection.get());
  count = connections.size();
  connection->read_head();
  accept();
}

// Called where a connection is destroyed; after the end, that is where the context is.
void HttpServer::State::leave(HttpConnection* connection) noexcept {
  connections.erase(connection);
  count = connections.size();
  if (context.stopped()) {
    return;
  }
  try {
    if (is_stopping && connections.empty()) {
      stop_timer.cancel();
    } else {
      accept();
    }
  } catch (const std::exception&) {
    is_accepting = false;  // no memory: the next one that leaves tries again
  }
}

void HttpServer::State::stop() {
  if (std::exchange(is_stopping, true)) {
    return;
  }
  error_code ignored;
  ignored = acceptor.close(ignored);
  accept_again.cancel();
  work.reset();
  service->close();
  const std::vector<HttpConnection*> open(connections.begin(), connections.end());
  for (HttpConnection* connection : open) {
    connection->stop();
  }
  if (connections.empty()) {
    return;
  }
  stop_timer.expires_after(kStopTime);
  stop_timer.async_wait([this](const error_code& error) {
    if (!error) {
      context.stop();
    }
  });
}

HttpServer::HttpServer(HttpServerOptions options) : state_(std::make_unique<State>(std::move(options))) {
  const std::string& host = state_->options.host;
  error_code error;
  const asio::ip::address address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) {
    throw Error(ErrorCode::kInvalidArgument, "host", "'" + host + "' is not an address of this machine",
                "give localhost, 127.0.0.1, ::1, or 0.0.0.0 for all");
  }
  const tcp::endpoint endpoint(address, state_->options.port);
  tcp::acceptor& acceptor = state_->acceptor;
  const bool has_failed =
      acceptor.open(endpoint.protocol(), error) || acceptor.set_option(tcp::acceptor::reuse_address(true), error) ||
      acceptor.bind(endpoint, error) || acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use) {
    throw Error(ErrorCode::kIo, "port " + std::to_string(state_->options.port), "is in use by another program",
                "give another --port, or 0 for any free one");
  }
  if (has_failed) {
    throw Error(ErrorCode::kIo, host + ":" + std::to_string(state_->options.port),
                "could not be listened on: " + error.message());
  }
}

HttpServer::~HttpServer() = default;

std::string HttpServer::url() const {
  const tcp::endpoint endpoint = state_->acceptor.local_endpoint();
  const std::string address = endpoint.address().to_string();
  const std::string host = endpoint.address().is_v6() ? "[" + address + "]" : address;
  return "http://" + host + ":" + std::to_string(endpoint.port());
}

bool HttpServer::is_loopback() const { return state_->acceptor.local_endpoint().address().is_loopback(); }

void HttpServer::run(HttpService& service) {
  state_->service = &service;
  while (!state_->context.stopped()) {
    try {
      state_->accept();
      state_->context.run();
    } catch (const std::exception&) {
      continue;  // no memory: the connection that it was about is closed, others go on
    }
  }
  state_->handlers.join();
}

void HttpServer::stop() {
  asio::post(state_->context, [state = state_.get()] { state->stop(); });
}

std::size_t HttpServer::connections() const { return state_->count; }

}  // namespace diffulex_edge
