#include "diffusion/cache_slots.h"

#include <gtest/gtest.h>

namespace diffulex_edge {
namespace {

using Ids = std::vector<std::int64_t>;

void use(CacheSlots& slots, std::size_t first, const Ids& kept) {
  slots.take(first, 1);
  slots.release(first, 1, kept);
}

TEST(CacheSlots, GiveWhatContinuesAConversation) {
  CacheSlots slots(3);
  use(slots, 0, {1, 2, 3, 4});
  use(slots, 1, {1, 2, 9, 9});
  const auto place = slots.find(Ids{1, 2, 9, 9, 5});
  ASSERT_TRUE(place);
  EXPECT_EQ(place->first, 1U);
  EXPECT_EQ(place->kept, 4);
}

TEST(CacheSlots, KeepAConversationThatOnlyBeginsInTheSameWay) {
  CacheSlots slots(2);
  use(slots, 0, {1, 2, 3, 4, 5, 6});
  const auto place = slots.find(Ids{1, 2, 8});
  ASSERT_TRUE(place);
  EXPECT_EQ(place->first, 1U);
  EXPECT_EQ(place->kept, 0);
  use(slots, 1, {1, 2, 8, 8, 8});
  EXPECT_EQ(slots.find(Ids{1, 2, 7})->first, 0U) << "the one that was used the longest time ago";
  EXPECT_EQ(slots.find(Ids{1, 2, 7})->kept, 2) << "whatever it has";
}

TEST(CacheSlots, ForgetWhatATakenSequenceHeld) {
  CacheSlots slots(1);
  use(slots, 0, {1, 2});
  slots.take(0, 1);
  EXPECT_FALSE(slots.find(Ids{1, 2}));
  slots.release(0, 1, {});
  EXPECT_EQ(slots.find(Ids{1, 2})->kept, 0);
}

TEST(CacheSlots, GivePairsSideBySide) {
  CacheSlots slots(4);
  use(slots, 2, {1, 2, 3});
  slots.take(1, 1);
  const auto pair = slots.find_pair();
  ASSERT_TRUE(pair);
  EXPECT_EQ(pair->first, 2U);
  EXPECT_EQ(pair->kept, 0);
  slots.take(2, 2);
  EXPECT_FALSE(slots.find_pair());
  slots.release(2, 2, {});
  EXPECT_EQ(slots.find(Ids{1, 2, 3})->kept, 0);
}

}  // namespace
}  // namespace diffulex_edge
