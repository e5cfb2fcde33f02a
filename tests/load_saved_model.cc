// Loads an export with LoadSavedModel, as TF Serving does, and answers from image files:
//   load_saved_model FOLDER IMAGE...
// prints for each image "valid item_id embedding...".
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

using tensorflow::Tensor;
using tensorflow::tstring;

// Runs a signature by the names of its inputs and outputs.
std::vector<Tensor> Run(const tensorflow::SavedModelBundle& bundle, const std::string& signature,
                        const std::vector<std::pair<std::string, Tensor>>& inputs,
                        const std::vector<std::string>& outputs) {
  const auto& definition = bundle.GetSignatures().at(signature);
  std::vector<std::pair<std::string, Tensor>> feeds;
  for (const auto& input : inputs)
    feeds.push_back({definition.inputs().at(input.first).name(), input.second});
  std::vector<std::string> fetches;
  for (const auto& output : outputs) fetches.push_back(definition.outputs().at(output).name());
  std::vector<Tensor> results;
  const auto status = bundle.GetSession()->Run(feeds, fetches, {}, &results);
  if (!status.ok()) {
    fprintf(stderr, "%s\n", status.ToString().c_str());
    exit(1);
  }
  return results;
}

int main(int argc, char** argv) {
  tensorflow::SavedModelBundle bundle;
  const auto status = tensorflow::LoadSavedModel(tensorflow::SessionOptions(),
                                                 tensorflow::RunOptions(), argv[1],
                                                 {"serve"}, &bundle);
  if (!status.ok()) {
    fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  const int count = argc - 2;
  Tensor images(tensorflow::DT_STRING, {count}), category(tensorflow::DT_STRING, {count});
  Tensor k(tensorflow::DT_INT32, {count});
  for (int row = 0; row < count; ++row) {
    std::ifstream file(argv[row + 2], std::ios::binary);
    images.flat<tstring>()(row) =
        std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    k.flat<int>()(row) = 1;
    category.flat<tstring>()(row) = "";
  }
  const auto embedded = Run(bundle, "embed", {{"image_bytes", images}}, {"embedding", "valid"});
  const auto found =
      Run(bundle, "search", {{"image_bytes", images}, {"k", k}, {"category", category}},
          {"item_id"});
  const auto embedding = embedded[0].matrix<float>();
  for (int row = 0; row < count; ++row) {
    printf("%d %s", embedded[1].vec<bool>()(row) ? 1 : 0,
           std::string(found[0].matrix<tstring>()(row, 0)).c_str());
    for (int column = 0; column < embedding.dimension(1); ++column)
      printf(" %.9g", embedding(row, column));
    printf("\n");
  }
  return 0;
}
