"""Classification protocols on a backbone: linear, finetune, svm, knn; one protocol a file."""
