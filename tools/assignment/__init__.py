"""练习的发放与评分（nbgrader）：notebook 里的作答格与检查格，加上 solutions/ 里的参考答案与隐藏测试。

解答在 convert.py 里并进 notebook，发放与评分在 grading.py；怎么用见 notebooks/README.md。
"""
