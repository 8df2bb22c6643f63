#include "server/text_service.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <string_view>
#include <utility>

#include "page_html.h"
#include "server/api_error.h"
#include "server/openai_requests.h"
#include "server/openai_responses.h"
#include "server/text_answer.h"

namespace diffulex_edge {
namespace {

struct Route {
  std::string_view path;
  std::string_view method;
  bool is_open = false;  // without a key
};

constexpr std::string_view kOneModel = "/v1/models/";
constexpr std::string_view kCompletions = "/v1/completions";
constexpr std::string_view kChat = "/v1/chat/completions";
constexpr std::array<Route, 7> kRoutes{{{"/", "GET", true},
                                        {"/health", "GET", true},
                                        {"/metrics", "GET"},
                                        {"/v1/models", "GET"},
                                        {kOneModel, "GET"},
                                        {kCompletions, "POST"},
                                        {kChat, "POST"}}};

// The page's own text between <NAME> and its end, as a browser is told that it may be used: 'sha256-...'.
std::string source_of_page(const std::string& name) {
  const std::string_view page = kPageHtml;
  const std::size_t begin = page.find("<" + name + ">") + name.size() + 2;
  const std::string_view part = page.substr(begin, page.find("</" + name + ">") - begin);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(part.data()), part.size(), digest.data());
  std::array<unsigned char, 64> text{};
  const int length = EVP_EncodeBlock(text.data(), digest.data(), static_cast<int>(digest.size()));
  return "'sha256-" + std::string(reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(length)) + "'";
}

// Nothing from elsewhere, no script but the page's own, and no other page around it.
std::string page_policy() {
  return "default-src 'none'; script-src " + source_of_page("script") + "; style-src " + source_of_page("style") +
         "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
}

const Route* find_route(std::string_view path) {
  const auto is_it = [&](const Route& route) {
    return route.path == path || (route.path == kOneModel && path.starts_with(kOneModel));
  };
  const auto route = std::ranges::find_if(kRoutes, is_it);
  return route == kRoutes.end() ? nullptr : &*route;
}

HttpResponse error_response(const ApiError& error) { return {.status = error.status(), .body = error.to_json()}; }

bool is_same(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;  // takes as long for any difference
}

bool has_key(const HttpHead& head, const std::string& key) {
  constexpr std::string_view kScheme = "Bearer ";
  return key.empty() || (head.authorization.starts_with(kScheme) &&
                         is_same(std::string_view(head.authorization).substr(kScheme.size()), key));
}

// Whether a name of the Host field leads to this machine whoever answers for names: localhost or a number.
bool is_own_name(std::string_view host) {
  const bool has_port = host.ends_with(']') ? false : host.find(':') != std::string_view::npos;
  const std::string_view name = has_port ? host.substr(0, host.rfind(':')) : host;
  return name.empty() || name == "localhost" || name.starts_with('[') ||
         name.find_first_not_of("0123456789.") == std::string_view::npos;
}

// Pages of other sites may send requests to this machine, though they can't read the answers.
bool is_foreign_page(const HttpHead& head) {
  return !head.origin.empty() && head.origin != "http://" + head.host && head.origin != "https://" + head.host;
}

}  // namespace

TextService::TextService(const ServedModel& model, Scheduler& scheduler, ServerMetrics& metrics,
                         const HttpServer& server, Options options)
    : model_(model),
      scheduler_(scheduler),
      metrics_(metrics),
      server_(server),
      options_(std::move(options)),
      page_policy_(page_policy()),
      created_(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

std::optional<HttpResponse> TextService::refuse(const HttpHead& head) {
  const Route* route = find_route(head.path);
  if (route == nullptr) {
    return error_response({404, "there is nothing at " + head.path, "not_found"});
  }
  if (is_foreign_page(head) || (options_.is_loopback && options_.api_key.empty() && !is_own_name(head.host))) {
    return error_response({403, "pages of other sites are not served", "foreign_origin"});
  }
  if (head.method != route->method && !(head.method == "HEAD" && route->method == "GET")) {
    HttpResponse response = error_response(
        {405, std::string(route->path) + " takes " + std::string(route->method) + " only", "method_not_allowed"});
    response.headers.emplace_back("Allow", route->method);
    return response;
  }
  if (!route->is_open && !has_key(head, options_.api_key)) {
    HttpResponse response =
        error_response({401, "the API key is wrong or missing: send 'Authorization: Bearer KEY'", "invalid_api_key"});
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return response;
  }
  if (scheduler_.is_closed()) {
    return error_response({503, "the server is shutting down", "shutting_down"});
  }
  return std::nullopt;
}

void TextService::handle(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  try {
    if (request.head.path == kCompletions || request.head.path == kChat) {
      start_text(request, reply);
    } else {
      reply->send(answer_small(request.head.path));
    }
  } catch (const ApiError& error) {
    reply->send(error_response(error));
  } catch (const Error& error) {
    reply->send(error_response(to_api_error(error)));
  } catch (const std::bad_alloc&) {
    reply->send(error_response({503, "the server is out of memory", "out_of_memory"}));
  } catch (const std::exception& error) {
    reply->send(error_response({500, std::string("internal error: ") + error.what(), "internal_error"}));
  }
}

HttpResponse TextService::answer_small(const std::string& path) const {
  if (path == "/") {
    return {.content_type = "text/html; charset=utf-8",
            .body = std::string(kPageHtml),
            .headers = {{"Content-Security-Policy", page_policy_}, {"Referrer-Policy", "no-referrer"}}};
  }
  if (path == "/health") {
    return {.body = R"({"status":"ok"})"};
  }
  if (path == "/metrics") {
    return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics_text()};
  }
  if (path == "/v1/models") {
    return {.body = model_list(model_, created_)};
  }
  if (path.substr(kOneModel.size()) != model_.name) {
    throw ApiError(404, "there is no such model", "model_not_found", "model");
  }
  return {.body = model_object(model_, created_)};
}

void TextService::start_text(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  OpenAiRequest text =
      request.head.path == kChat ? read_chat(request.body, model_) : read_completion(request.body, model_);
  scheduler_.check(text.generation);
  auto answer = std::make_shared<TextAnswer>(text, model_, reply);
  const std::optional<Scheduler::Ticket> ticket = scheduler_.submit(std::move(text.generation), std::move(answer));
  if (ticket) {
    reply->on_gone([&scheduler = scheduler_, ticket = *ticket] { scheduler.cancel(ticket); });
    return;
  }
  if (scheduler_.is_closed()) {
    throw ApiError(503, "the server is shutting down", "shutting_down");
  }
  HttpResponse response = error_response({429, "the server's queue is full: try again later", "queue_full"});
  response.headers.emplace_back("Retry-After", "1");
  reply->send(std::move(response));
}

void TextService::answered(const HttpHead& head, int status) {
  const Route* route = find_route(head.path);
  metrics_.count_answer(route == nullptr ? "other" : route->path, status);
}

std::string TextService::metrics_text() const {
  ServerGauges gauges{.connections = server_.connections(), .weight_bytes = model_.text.engine().weight_bytes()};
  scheduler_.add_to(gauges);
  return metrics_.to_text(gauges);
}

}  // namespace diffulex_edge
